"""New versions that come by the broker: fetched beside the machine, within its limits, and staged.

The owner's signature alone is trusted: it is verified as soon as the first chunk is here, and again
over the whole before the updater gets to see it, which verifies everything once more.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

from edge_runtime.traffic import Bucket
from qflare import __version__
from qflare.crypto.keys import VerifyKey
from qflare.envelope import open_signed
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import DeviceId, FleetId
from qflare.record import check
from qflare.rollout import CHUNK, BundleOffer, Rollout
from qflare.topics import All, AllTopic, DownChunk, Up, UpTopic, build, parse
from qflare.transfer import AskBlob

if TYPE_CHECKING:  # read when there is something to fetch: it costs a device 1 MB
    from edge_runtime.upgrade.fetch import Fetch
    from edge_runtime.upgrade.incoming import Incoming

AGAIN_FIRST_S: Final = 60.0  # after something that may pass; then twice as long each time
AGAIN_LAST_S: Final = 6 * 3600.0
LOOK_S: Final = 30.0  # for what the updater says


class Surroundings(Protocol):
    """What a receiver needs of its device."""

    @property
    def fleet(self) -> FleetId: ...

    @property
    def device(self) -> DeviceId: ...

    def coordinator_key(self) -> VerifyKey | None:
        """None until the owner's manifest is here."""

    def limit(self) -> Bucket:
        """What chunks may take of the network on their way down."""

    def publish(self, topic: str, payload: bytes) -> None: ...

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Let it run beside everything else."""

    def say(self, word: str) -> None:
        """Tell the operator how updates stand, in words."""

    def log(self, level: str, event: str, **fields: object) -> None: ...


class Receiver:
    """One device's part in a roll-out. `now` is in seconds of a clock that only goes on."""

    def __init__(
        self, around: Surroundings, files: "Callable[[], Incoming]", fetch: bool = True
    ) -> None:
        self._around, self._make, self._may_fetch = around, files, fetch
        self._topic = build(AllTopic(around.fleet, All.ROLLOUT))
        self._unread: bytes | None = None  # said before there was a key to verify it by
        self._offers: tuple[BundleOffer, ...] = ()
        self._files: Incoming | None = None
        self._fetch: Fetch | None = None
        self._staging = False
        self._again_s, self._again_at = AGAIN_FIRST_S, 0.0
        self._look_at, self._outcome, self._word = 0.0, "", ""

    def take(self, topic: str, payload: bytes, now: float) -> bool:
        """Take a message; False if it is for the machine."""
        if topic == self._topic:
            self._unread = payload if self._may_fetch else None
            self._read(now)
            return True
        if self._fetch is None:
            return False
        try:
            parsed = parse(topic)
        except PeerFault:
            return False  # the machine says what is wrong with it
        if not isinstance(parsed, DownChunk) or parsed.transfer != self._fetch.offer.bundle:
            return False
        try:
            self._chunk(self._fetch, parsed.index, payload, now)
        except PeerFault as fault:
            self._around.log("warning", "refused", what=topic[:160], detail=str(fault))
        return True

    def reconnect(self) -> None:
        """A new connection: what was asked for on the last one won't come."""
        if self._fetch is not None:
            self._fetch.reconnect()

    def tick(self, now: float, quiet: str) -> None:
        """Do what is due. With a reason to be `quiet` no chunk is asked for."""
        self._read(now)
        if self._files is None or not self._offers:
            return
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(self._files)
        if self._staging or now < self._again_at:
            return
        if self._fetch is None:
            self._choose(self._files, now)
        if self._fetch is not None and not quiet:
            self._ask(self._fetch, now)

    # --- what is offered

    def _read(self, now: float) -> None:
        around, unread = self._around, self._unread
        key = around.coordinator_key()
        if unread is None or (unread and key is None):
            return
        self._unread = None
        try:
            if unread and key is not None:
                rollout = open_signed(Rollout, unread, key)
                check(rollout.fleet == around.fleet, "another fleet", Reason.WRONG_FLEET)
                offers = rollout.bundles
            else:
                offers = ()
        except PeerFault as fault:
            around.log("warning", "refused", what="rollout", detail=str(fault))
            return
        if offers == self._offers:
            return
        self._offers = offers
        wanted = {offer.bundle for offer in offers if offer.reaches(around.device)}
        if self._files is None and wanted:
            self._files = self._make()
            self._outcome = self._files.outcome()
            if not self._outcome.startswith(f"{__version__} runs"):
                self._say(self._outcome)
        if self._fetch is not None and self._fetch.offer.bundle not in wanted:
            self._fetch = None
        self._again_s, self._again_at = AGAIN_FIRST_S, now
        if self._files is not None and not self._staging:
            self._guard(lambda files: files.keep(wanted), now)

    def _choose(self, files: "Incoming", now: float) -> None:
        from edge_runtime.upgrade.fetch import Fetch

        for offer in self._offers:
            if not offer.reaches(self._around.device) or files.settled(offer.bundle):
                continue
            have = files.have(offer.bundle)
            if have >= min(CHUNK, offer.size) and not self._look_into(offer, now):
                continue
            if now >= self._again_at:
                self._fetch = Fetch(offer, have)
            return

    def _look(self, files: "Incoming") -> None:
        outcome = files.outcome()
        if outcome != self._outcome:
            self._outcome = outcome
            self._say(outcome)

    # --- what comes

    def _ask(self, fetch: "Fetch", now: float) -> None:
        indices = fetch.ask(now, self._around.limit())
        if indices:
            topic = build(UpTopic(self._around.fleet, self._around.device, Up.ASK))
            self._around.publish(topic, AskBlob(fetch.offer.bundle, indices).to_bytes())

    def _chunk(self, fetch: "Fetch", index: int, payload: bytes, now: float) -> None:
        offset, offer = fetch.offset, fetch.offer
        if self._staging or not fetch.take(index, payload, now):
            return
        if not self._guard(lambda files: files.write(offer.bundle, offset, payload), now):
            return
        if index == 0 and not self._look_into(offer, now):
            return
        if fetch.whole:
            self._staging, self._fetch = True, None
            self._around.start(self._stage(offer, now))

    def _look_into(self, offer: BundleOffer, now: float) -> bool:
        """Is it for this device, by what is here of it?"""
        said: list[str] = []
        if not self._guard(lambda files: said.append(files.look(offer)), now, offer):
            return False
        self._say(f"fetching {said[0]}")
        return True

    async def _stage(self, offer: BundleOffer, now: float) -> None:
        files = self._files
        if files is None:
            return
        try:
            version = await asyncio.to_thread(files.stage, offer)
        except (PeerFault, LocalFault, OSError) as fault:
            self._failed(fault, offer, now)
        else:
            self._guard(lambda files: files.settle(offer.bundle, ""), now)
            self._say(f"{version} is staged")
        finally:
            self._staging = False

    # --- what goes wrong

    def _guard(
        self, work: "Callable[[Incoming], object]", now: float, offer: BundleOffer | None = None
    ) -> bool:
        if self._files is None:
            return False
        try:
            work(self._files)
        except (PeerFault, LocalFault, OSError) as fault:
            self._failed(fault, offer, now)
            return False
        return True

    def _failed(self, fault: Exception, offer: BundleOffer | None, now: float) -> None:
        """A bundle that isn't for us is settled; what else goes wrong is tried again."""
        self._fetch = None
        if isinstance(fault, PeerFault) and offer is not None:
            self._guard(lambda files: files.settle(offer.bundle, str(fault)), now)
            self._say(f"refused: {fault}")
            return
        self._again_at = now + self._again_s
        self._again_s = min(2 * self._again_s, AGAIN_LAST_S)
        words = fault.strerror if isinstance(fault, OSError) else str(fault)
        self._say(f"waits: {words}")

    def _say(self, word: str) -> None:
        if word != self._word:
            self._word = word
            self._around.log("info", "update", says=word)
            self._around.say(f"update {word}" if word else "")
