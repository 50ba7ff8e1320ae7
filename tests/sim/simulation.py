"""A whole fleet in one process and in no time: virtual seconds, and nothing that waits."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from coordinator.book import Phase
from coordinator.transfers import Limits
from edge_runtime.memory import Fate
from qflare.messages import KIB
from qflare.names import DeviceId, Digest
from qflare.policy import PolicyBounds
from qflare.topics import Topic, build
from tests.sim.broker import Broker
from tests.sim.edge import Edge, Made
from tests.sim.rooms import Coordinator, Enclave, Killed, Room
from tests.unit.coordinator_rig import FLEET, START, World

LATENCY_S = 0.002
Copies = list[tuple[float, bytes]]  # of one message: when each arrives, seconds, and what it says


class Faults(Protocol):
    """What goes wrong."""

    def carry(
        self, upward: bool, who: str, topic: str, payload: bytes
    ) -> list[tuple[float, bytes]]:
        """The copies that arrive of one message."""

    def kills(self, room: Room) -> bool:
        """Does this process end now, after the effect that it has just performed?"""

    def down_for(self, room: Room) -> float:
        """How long it stays down, seconds."""


class Calm:
    """Nothing goes wrong."""

    def carry(
        self, upward: bool, who: str, topic: str, payload: bytes
    ) -> list[tuple[float, bytes]]:
        return [(LATENCY_S, payload)]

    def kills(self, room: Room) -> bool:
        return False

    def down_for(self, room: Room) -> float:
        return 1.0


def make_world() -> World:
    """Keys, certificates and a manifest that asks for at least two updates."""
    world = World()
    bounds = PolicyBounds((world.manifest.suite,), ("q8", "fixed32"), 2, 4.0, 1000)
    world.manifest = replace(world.manifest, bounds=bounds)
    return world


WORLD = make_world()


class Simulation:
    """Devices, a broker, a coordinator and an enclave. `now` is in Unix seconds."""

    def __init__(
        self,
        devices: int = 4,
        rounds: int = 2,
        faults: Faults | None = None,
        seed: int = 0,
        world: World = WORLD,
        chunk: int = KIB,
        **settings: object,
    ) -> None:
        self.world, self.now = world, START
        self.random = random.Random(seed)
        self.faults: Faults = faults or Calm()
        self.kills: Counter[str] = Counter()
        self.made: dict[Digest, Made] = {}  # every honest update
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self.broker = Broker(FLEET, self._carry)
        given: dict[str, object] = {"limits": Limits(), "expect_devices": devices}
        self.settings = world.settings(rounds=rounds, **(given | settings))
        self.coordinator = Coordinator(self)
        self.enclave = Enclave(self)
        names = [DeviceId.parse(f"dev-{i}") for i in range(devices)]
        self.edges = {name: Edge(self, name, chunk) for name in names}

    def start(self, late: int = 0) -> None:
        """Start everybody; the last `late` devices only when all the others have long been here."""
        self.coordinator.start()
        self.enclave.start()
        edges = list(self.edges.values())
        for edge in edges[: len(edges) - late]:
            edge.start()
        for edge in edges[len(edges) - late :]:
            self.after(5.0, edge.start)

    # --- time ----------------------------------------------------------------------------------

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something later."""
        self._entries += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._entries, do))

    def run(self, until: Callable[[], bool], seconds: float = 600.0) -> None:
        """Let time pass until something is so."""
        end = self.now + seconds
        while not until():
            at, _, do = heapq.heappop(self._agenda)
            if at > end:
                raise AssertionError(f"it never came: {self.story()}")
            self.now = at
            do()

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._agenda[0][0] <= end:
            self.now, _, do = heapq.heappop(self._agenda)
            do()
        self.now = end

    def story(self) -> str:
        """For whoever has to find out why."""
        book = self.coordinator.machine.book
        edges = {str(n): (e.machine.phase, dict(e.counters)) for n, e in self.edges.items()}
        return f"{book.phase} {book.round and book.round.number} {dict(book.refusals)} {edges}"

    # --- what happens between ------------------------------------------------------------------

    def _carry(
        self, upward: bool, who: str, topic: str, payload: bytes, arrive: Callable[[bytes], None]
    ) -> None:
        for delay, data in self.faults.carry(upward, who, topic, payload):
            self.after(delay, lambda data=data: arrive(data))  # type: ignore[misc]

    def performed(self, room: Room) -> None:
        """An effect was performed: is it the last one?"""
        if self.faults.kills(room):
            raise Killed

    def kill(self, room: Room) -> None:
        """End a process, and start it again later."""
        self.kills[room.name] += 1
        room.kill()
        self.after(self.faults.down_for(room), lambda: None if room.alive else room.start())

    def say(self, who: str, topic: Topic, payload: bytes, retain: bool = False) -> None:
        """Publish as somebody, whatever their machine thinks of it."""
        self.broker.publish(who, build(topic), payload, retain)

    # --- what came of it -----------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """The coordinator has all the rounds that it was asked for."""
        return self.coordinator.alive and self.coordinator.machine.book.phase is Phase.DONE

    def settled(self) -> bool:
        """Done, and every device has the last model and knows what became of its updates."""
        return self.done and all(self._at_rest(edge) for edge in self.edges.values())

    def _at_rest(self, edge: Edge) -> bool:
        """Has it heard the end of the last round, in which it may have had an update?"""
        last, memory, past = self.coordinator.machine.book.last, edge.machine.memory, edge.disk.past
        if not edge.alive or last is None or memory.active != last.model or past.outbox:
            return False
        return all(e.fate is not Fate.ACCEPTED for e in past.journal if e.round == last.number)
