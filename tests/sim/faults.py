"""A network and a power supply that are as bad as a seed says, for a while."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.sim.simulation import LATENCY_S
from tests.unit.coordinator_rig import START

if TYPE_CHECKING:
    from tests.sim.rooms import Room
    from tests.sim.simulation import Simulation

_KINDS = ("drop", "twice", "late", "short", "flip")


@dataclass
class Chaos:
    """Each message and each effect runs a risk, until `seconds` of virtual time have passed."""

    seed: int
    seconds: float = 60.0
    message: float = 0.1  # the share of messages that something happens to
    effect: float = 0.01  # the share of effects after which the process ends
    cut: float = 0.02  # broken connections per second and room

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.over = False

    def carry(
        self, upward: bool, who: str, topic: str, payload: bytes
    ) -> list[tuple[float, bytes]]:
        if self.over or self.random.random() >= self.message:
            return [(LATENCY_S, payload)]
        match self.random.choice(_KINDS):
            case "drop":
                return []
            case "twice":
                return [(LATENCY_S, payload), (self.random.expovariate(0.5), payload)]
            case "late":
                return [(self.random.expovariate(0.5), payload)]
            case "short":
                return [(LATENCY_S, payload[: self.random.randrange(len(payload) + 1)])]
        return [(LATENCY_S, self._flipped(payload))]

    def _flipped(self, payload: bytes) -> bytes:
        if not payload:
            return b"\x80"
        data = bytearray(payload)
        data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def kills(self, room: "Room") -> bool:
        return not self.over and self.random.random() < self.effect

    def down_for(self, room: "Room") -> float:
        return self.random.uniform(0.0, 4.0)

    def unleash(self, sim: "Simulation") -> None:
        """Begin, and see to the end of it."""
        self._cut(sim)
        sim.after(self.seconds, self._end)

    def _end(self) -> None:
        self.over = True

    def _cut(self, sim: "Simulation") -> None:
        if self.over or sim.now > START + self.seconds:
            return
        for room in (sim.coordinator, *sim.edges.values()):
            if self.random.random() < self.cut:
                room.unlink()
                sim.after(self.random.uniform(0.0, 5.0), room.link)
        sim.after(1.0, lambda: self._cut(sim))
