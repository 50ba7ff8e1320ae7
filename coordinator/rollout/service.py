"""The roll-out beside the rounds: says what can be had, hands it out, hears what devices run."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coordinator.limiter import Kind, Limiter
from coordinator.registry import Registry
from coordinator.rollout.shelf import DEVICES_MAX, Shelf, Standing
from qflare.crypto.keys import SigningKey
from qflare.envelope import sign
from qflare.faults import LocalFault, PeerFault
from qflare.host.logs import get_logger
from qflare.messages import PartyState
from qflare.names import DeviceId, Digest, FleetId
from qflare.rollout import BundleOffer, Rollout
from qflare.topics import All, AllTopic, StateTopic, Up, UpTopic, build, parse
from qflare.transfer import AskBlob

LOOK_S: Final = 1.0  # how often to look for what the operator's commands wrote
TELL_S: Final = 5.0  # between two writings of what devices say
_log = get_logger("rollout")


@dataclass(frozen=True)
class Fleet:
    """What the service shares with the rest of the coordinator."""

    name: FleetId
    key: SigningKey
    registry: Registry
    limiter: Limiter
    publish: Callable[[str, bytes, bool], object]  # topic, payload, retained
    send: Callable[[DeviceId, Digest, tuple[int, ...]], None]  # chunks of a bundle
    now: Callable[[], float]


class RolloutService:
    """What the daemon runs."""

    def __init__(self, shelf: Shelf, fleet: Fleet) -> None:
        self._shelf, self._fleet = shelf, fleet
        self._topic = build(AllTopic(fleet.name, All.ROLLOUT))
        self._offers: dict[Digest, BundleOffer] = {}
        self._said: bytes | None = None  # None: never anything, and the topic is left alone
        self._plan: tuple[int, int] | None = None
        self.devices: dict[str, Standing] = {}  # by name, as they say it
        self._fresh = False

    def connected(self) -> None:
        """Say again what stands: the broker may have lost it."""
        if self._said is not None:
            self._fleet.publish(self._topic, self._said, True)

    def take(self, topic: str, payload: bytes) -> bool:
        """Take a message; False if it is for others, too."""
        if not topic.endswith(("/up/ask", "/state")):
            return False
        try:
            parsed = parse(topic)
            match parsed:
                case StateTopic(device=device) if payload:
                    self._heard(device, PartyState.parse(payload))
                case UpTopic(device=device, kind=Up.ASK):
                    return self._asked(device, AskBlob.parse(payload))
        except PeerFault:
            pass  # whoever else it may be for says what is wrong with it
        return False

    def _asked(self, device: DeviceId, ask: AskBlob) -> bool:
        fleet, offer = self._fleet, self._offers.get(ask.blob)
        if offer is None:
            return False
        known = fleet.registry.get(device)
        if known is None or known.certificate is None or not offer.reaches(device):
            return True
        now = fleet.now()
        if fleet.limiter.allow(device, Kind.ASK, now):
            fleet.registry.heard(device, now)
            wanted = tuple(dict.fromkeys(i for i in ask.indices if i < offer.chunks))
            fleet.send(device, ask.blob, wanted)
        return True

    def _heard(self, device: DeviceId, state: PartyState) -> None:
        if len(self.devices) < DEVICES_MAX or device in self.devices:
            said = Standing(status=state.status, version=state.version, detail=state.detail[:400])
            self._fresh = self._fresh or self.devices.get(str(device)) != said
            self.devices[str(device)] = said

    def read_chunk(self, blob: Digest, index: int) -> bytes | None:
        """A chunk of a bundle that can be had; None for another blob."""
        return self._shelf.read_chunk(blob, index) if blob in self._offers else None

    async def run(self) -> None:
        """Follow what operators decide, until cancelled."""
        told_at = 0.0
        while True:
            self.look()
            now = asyncio.get_running_loop().time()
            if self._fresh and self._offers and now - told_at >= TELL_S:
                self._fresh, told_at = False, now
                await asyncio.to_thread(self._tell, dict(self.devices))
            await asyncio.sleep(LOOK_S)

    def _tell(self, devices: dict[str, Standing]) -> None:
        try:
            self._shelf.tell(devices)
        except OSError as error:  # rounds go on without it
            _log.error("what devices say isn't written down", reason=error.strerror)

    def look(self) -> None:
        """Take what an operator's command wrote."""
        try:
            found = self._shelf.plan.stat()
        except OSError:
            return  # nothing was ever staged
        plan = (found.st_mtime_ns, found.st_ino)
        if plan == self._plan:
            return
        self._plan = plan
        try:
            bundles = self._shelf.bundles()
        except (LocalFault, OSError) as fault:
            _log.error("what stands is kept", reason=str(fault))
            return
        self._offers = {one.offer.bundle: one.offer for one in bundles}
        said = b""
        if bundles:
            said = sign(Rollout(self._fleet.name, tuple(self._offers.values())), self._fleet.key)
        self._said = said
        self._fleet.publish(self._topic, said, True)
        shares = {one.version: f"{one.permille / 10:g} %" for one in bundles}
        _log.info("rollout", bundles=shares)
