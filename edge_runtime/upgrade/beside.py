"""A receiver's place in a device: beside the machine, on its link, within its limits."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.events import Event, Updating
from edge_runtime.machine import Machine
from edge_runtime.state import Settings
from edge_runtime.traffic import Bucket
from edge_runtime.upgrade.receiver import Receiver
from qflare.crypto.keys import VerifyKey
from qflare.host.link import Link
from qflare.host.logs import get_logger
from qflare.names import DeviceId, FleetId

if TYPE_CHECKING:
    from edge_runtime.upgrade.incoming import Incoming


@dataclass(frozen=True, slots=True)
class Beside:
    """What the receiver sees of the device (`receiver.Surroundings`)."""

    settings: Settings
    machine: Machine
    link: Link
    start: Callable[[Coroutine[Any, Any, None]], None]
    feed: Callable[[Event], None]

    @property
    def fleet(self) -> FleetId:
        return self.settings.fleet

    @property
    def device(self) -> DeviceId:
        return self.settings.identity.device

    def coordinator_key(self) -> VerifyKey | None:
        return self.machine.coordinator_key

    def limit(self) -> Bucket:
        return self.machine.down_limit

    def publish(self, topic: str, payload: bytes) -> None:
        self.link.publish(topic, payload)  # False: it is asked for again

    def say(self, word: str) -> None:
        self.feed(Updating(word))

    def log(self, level: str, event: str, **fields: object) -> None:
        getattr(get_logger("update").bind(device=str(self.device)), level)(event, **fields)


def receiver(state_dir: Path, around: Beside, fetch: bool) -> Receiver:
    """The receiver of a device with this state directory; one that takes nothing unless `fetch`."""

    def files() -> "Incoming":
        from edge_runtime.upgrade.incoming import Incoming
        from edge_runtime.upgrade.places import Places

        owner = around.settings.owner_key
        return Incoming(state_dir, owner, around.fleet, Places())

    return Receiver(around, files, fetch)
