"""The slots as the daemon switches them. What fails is tried again: nothing else depends on it."""

from time import time

from edge_runtime import events as ev
from edge_runtime.config import EdgeConfig
from edge_runtime.slots import Slots
from edge_runtime.store import refused
from qflare.faults import LocalFault
from qflare.host.logs import get_logger
from qflare.messages import ZERO
from qflare.names import Digest


class Activation:
    """The slots of one device, if its configuration wants any."""

    def __init__(self, config: EdgeConfig) -> None:
        """Raise StoreFault if the disk refuses, LocalFault for a group that isn't ours to give."""
        serving, self._slots = config.serving, None
        self._log = get_logger("slots").bind(device=config.device.name)
        if serving.enabled:
            directory = serving.slots_in(config.device.state_dir)
            try:
                self._slots = Slots(directory, serving.group_id)
            except OSError as error:
                raise refused(directory, error) from None

    @property
    def directory(self) -> str:
        """Where they are; empty if there are none."""
        return "" if self._slots is None else str(self._slots.link.parent)

    @property
    def refused(self) -> frozenset[Digest]:
        """The models that aren't to be tried again."""
        return frozenset() if self._slots is None else self._slots.refused

    def missing(self, model: Digest) -> ev.SlotLost | None:
        """What to say of the model that was accepted last, if it isn't usable."""
        slots = self._slots
        if slots is None or model == ZERO or model in slots.refused or slots.sound(model):
            return None
        return ev.SlotLost(model, "its slot is missing or damaged")

    def perform(self, effect: ev.Activate | ev.Refuse) -> ev.SlotLost | None:
        """Switch; what to say if that failed."""
        if self._slots is None:
            return None
        try:
            match effect:
                case ev.Activate(model, round_):
                    self._slots.activate(model, round_, time())
                case ev.Refuse(model, reason):
                    self._slots.refuse(model, reason)
        except (LocalFault, OSError) as fault:
            self._log.error("slots", model=effect.model.short, detail=str(fault))
            if isinstance(effect, ev.Activate):
                return ev.SlotLost(effect.model, str(fault))
        return None
