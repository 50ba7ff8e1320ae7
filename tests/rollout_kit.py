"""A roll-out without a broker: the coordinator's service, devices' receivers, a wire between them.

The wire may lose, double and delay what goes over it.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coordinator.limiter import Limiter
from coordinator.registry import Registry
from coordinator.rollout.service import Fleet, RolloutService
from coordinator.rollout.shelf import Shelf
from edge_runtime.traffic import Bucket
from edge_runtime.upgrade import staging
from edge_runtime.upgrade.incoming import Incoming
from edge_runtime.upgrade.places import Places
from edge_runtime.upgrade.receiver import Receiver
from qflare.crypto.certificates import DeviceCertificate
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.names import DeviceId, Digest, FleetId
from qflare.topics import DownChunk, build
from tests.upgrade_kit import FLEET, OWNER, bundle_of, manifest_of, wheel

COORDINATOR = SigningKey.from_seed(DEFAULT, b"c" * 32)
STEP_S = 0.25

Deliver = Callable[[], None]


@dataclass
class Wire:
    """Messages on their way, in the order in which they will come."""

    lost: float = 0.0
    doubled: float = 0.0
    mixed: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    waiting: list[Deliver] = field(default_factory=list)

    def send(self, deliver: Deliver) -> None:
        copies = (self.rng.random() >= self.lost) + (self.rng.random() < self.doubled)
        for _ in range(copies):
            end = len(self.waiting)
            at = self.rng.randint(0, end) if self.rng.random() < self.mixed else end
            self.waiting.insert(at, deliver)

    def flow(self) -> None:
        """What is on its way now arrives."""
        arriving, self.waiting = self.waiting, []
        for deliver in arriving:
            deliver()


class Board:
    """A device, as far as its receiver knows."""

    def __init__(self, world: "World", name: str, rate: float = 0.0) -> None:
        self.world, self.device, self.fleet = world, DeviceId.parse(name), FLEET
        self.home = world.home / name
        self.state, self.opt = self.home / "state", self.home / "opt"
        self.state.mkdir(parents=True)
        self.words: list[str] = []
        self.notes: list[dict[str, object]] = []
        self.asked = 0
        self.key: VerifyKey | None = COORDINATOR.verify_key
        self.quiet = ""
        self._bucket = Bucket(rate)
        self._work: list[Coroutine[Any, Any, None]] = []
        self.start_anew()

    def start_anew(self, fetch: bool = True) -> None:
        """As after a crash."""
        self._work.clear()
        owner = OWNER.verify_key
        places = Places(self.opt)
        self.receiver = Receiver(self, lambda: Incoming(self.state, owner, FLEET, places), fetch)

    # what it is for the receiver

    def coordinator_key(self) -> VerifyKey | None:
        return self.key

    def limit(self) -> Bucket:
        return self._bucket

    def publish(self, topic: str, payload: bytes) -> None:
        self.asked += 1
        self.world.wire.send(lambda: self.world.to_coordinator(topic, payload))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._work.append(work)

    def say(self, word: str) -> None:
        self.words.append(word)

    def log(self, level: str, event: str, **fields: object) -> None:
        self.notes.append({"level": level, "event": event, **fields})

    # what is done with it

    def tick(self) -> None:
        self.receiver.tick(self.world.now, self.quiet)
        while self._work:
            asyncio.run(self._work.pop())

    def staged(self) -> dict[str, bytes]:
        here = self.state / "update/staged"
        with staging.staged_dir(self.state) as directory:
            names = [] if directory is None else staging.names(directory)
        return {name: (here / name).read_bytes() for name in names}

    def parts(self) -> list[Path]:
        return sorted((self.state / "update/incoming").glob("*.part"))


class World:
    """A fleet whose coordinator rolls something out."""

    def __init__(self, home: Path, wire: Wire | None = None) -> None:
        self.home, self.wire, self.now = home, wire or Wire(), 1000.0
        self.boards: dict[str, Board] = {}
        self.retained: tuple[str, bytes] | None = None
        self.registry = Registry()
        self.chunks = 0
        self.shelf = Shelf(home / "rollout")
        self.start_anew()

    def start_anew(self) -> None:
        """The coordinator, as after a crash."""
        fleet = Fleet(
            FLEET,
            COORDINATOR,
            self.registry,
            Limiter(),
            self._publish,
            self._send,
            lambda: self.now,
        )
        self.service = RolloutService(self.shelf, fleet)

    def board(self, name: str, rate: float = 0.0) -> Board:
        """A device that is registered."""
        made = self.boards[name] = Board(self, name, rate)
        now = datetime.now(UTC)
        key = COORDINATOR.verify_key
        known = DeviceCertificate(made.device, key, 1, Digest.of(name.encode()), now, now, now)
        self.registry.register(known, b"")
        if self.retained is not None:
            made.receiver.take(*self.retained, self.now)
        return made

    def stage(self, bundle: bytes, permille: int = 1000, fleet: FleetId = FLEET) -> None:
        """As the operator does it, but what is wrong with it isn't looked at."""
        path = self.home / "given.qflare"
        path.write_bytes(bundle)
        self.shelf.stage(path, OWNER.verify_key, fleet, permille)
        self.look()

    def look(self) -> None:
        """The running coordinator sees what the operator did."""
        self.service.look()

    def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        assert retain
        self.retained = (topic, payload)
        for board in self.boards.values():
            board.receiver.take(topic, payload, self.now)

    def _send(self, device: DeviceId, blob: Digest, indices: tuple[int, ...]) -> None:
        board = self.boards[str(device)]
        for index in indices:
            topic = build(DownChunk(FLEET, device, blob, index))
            data = self.service.read_chunk(blob, index)
            assert data is not None
            self.chunks += 1

            def deliver(topic: str = topic, data: bytes = data) -> None:
                board.receiver.take(topic, data, self.now)

            self.wire.send(deliver)

    def to_coordinator(self, topic: str, payload: bytes) -> None:
        self.service.take(topic, payload)

    def step(self) -> None:
        self.now += STEP_S
        for board in self.boards.values():
            board.tick()
        self.wire.flow()

    def run(self, seconds: float) -> None:
        """Let time go on."""
        for _ in range(int(seconds / STEP_S)):
            self.step()

    def until(self, reached: Callable[[], object], within_s: float = 3600.0) -> None:
        """Let time go on until then."""
        for _ in range(int(within_s / STEP_S)):
            if reached():
                return
            self.step()
        raise AssertionError("it never came to that")


def release(
    folder: Path, version: str, sequence: int, size: int = 1_500_000, **changes: Any
) -> bytes:
    """A bundle of several chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(version).randbytes(size // 2).hex()
    wheels: Sequence[Path] = [
        wheel(folder, "filler", "1.0", {"filler.py": noise}),
        wheel(folder, "qflare", version, {"tiny.py": "x = 1\n"}, "filler"),
    ]
    owner = changes.pop("owner", OWNER)
    return bundle_of(replace(manifest_of(wheels, version, sequence), **changes), wheels, owner)
