"""A device with the real machine, the real codec and real keys; only its trainer is made up."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime import events as ev
from edge_runtime.machine import Machine
from edge_runtime.sealing import Identity
from edge_runtime.state import Settings
from qflare.compression import parse_codec
from qflare.compression.codecs import decode
from qflare.compression.encoding import clip, compress_with_feedback
from qflare.effects import Publish
from qflare.messages import CHUNK_MAX, KIB
from qflare.names import DeviceId, Digest
from qflare.tallies import Tallies
from qflare.tensors import FloatVector
from tests.edge_lab import make_update
from tests.sim.disks import EdgeDisk
from tests.sim.rooms import Killed, Room
from tests.unit.coordinator_rig import FLEET, WEIGHTS

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

SIZE = len(WEIGHTS) // 4
TRAINING_S = 0.7


def tallies_of(device: DeviceId, step: int) -> Tallies:
    """What this device says of its validation part in this step: like nobody else's."""
    number = int(device.rpartition("-")[2])
    return (20 + number, 7, 8 + number, 30, step % 30, 11, 55_000 + number, 44_000 + step)


def delta_of(device: DeviceId, step: int, weights: bytes) -> FloatVector:
    """What this device learns in this step: a function of the three, float32[SIZE]."""
    seed = Digest.of(device.encode(), step.to_bytes(8, "big"), weights).raw
    return np.random.default_rng(list(seed)).standard_normal(SIZE).astype(np.float32) * 0.05


class Edge(Room):
    """A device with the real machine; only its trainer is made up."""

    def __init__(self, sim: "Simulation", name: DeviceId, chunk: int = KIB) -> None:
        super().__init__(sim)
        self.name = self.device = name
        key, der = sim.world.identity(name)
        self.settings = Settings(
            FLEET, Identity(name, Digest.of(der), key), der, sim.world.owner.verify_key, chunk
        )
        self.disk = EdgeDisk()
        self.totals: Counter[str] = Counter()  # of all lives
        self.trained: list[int] = []  # rounds
        self.machine: Machine

    @property
    def counters(self) -> Counter[str]:
        """What happened in all lives."""
        return self.totals + self.machine.counters

    def _boot(self) -> None:
        self.machine = Machine(self.settings, self.disk.load())
        self.link()

    def kill(self) -> None:
        if self.alive:
            self.totals += self.machine.counters
            self.machine.counters.clear()
        super().kill()

    def link(self) -> None:
        if self.alive and not self.linked:
            self.linked = True
            self.sim.broker.connect(self.name, self._deliver, self.machine.will())
            self.feed(ev.LinkUp(CHUNK_MAX))

    def unlink(self) -> None:
        super().unlink()
        self.feed(ev.LinkDown())

    def _deliver(self, topic: str, payload: bytes, retained: bool) -> None:
        self.feed(ev.Received(topic, payload, retained))

    def _second(self) -> None:
        self.feed(ev.Tick())

    def feed(self, event: ev.Event) -> None:
        if not self.alive:
            return
        try:
            for effect in self.machine.handle(event, self.sim.now):
                self.disk.perform(effect)
                self._perform(effect)
                self.sim.performed(self)
        except Killed:
            self.sim.kill(self)

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case Publish(topic, payload, retain):
                if self.linked:
                    self.sim.broker.publish(self.name, topic, payload, retain)
            case ev.Train():
                self._later(TRAINING_S, effect)
            case ev.Evaluate():
                self._later(0.1, effect)

    def _later(self, seconds: float, job: ev.Train | ev.Evaluate) -> None:
        life, residual = self.life, self.disk.residual

        def work() -> None:
            if self.alive and self.life == life:
                self.feed(self._do(job, residual))

        self.sim.after(seconds, work)

    def _do(self, job: ev.Train | ev.Evaluate, residual: bytes | None) -> ev.Event:
        model = job.claims.model if isinstance(job, ev.Train) else job.model
        if model not in self.disk.blobs:  # forgotten since, as on a real device
            return ev.BlobLost(model, "it is gone")
        return self._train(job, residual) if isinstance(job, ev.Train) else _test(job)

    def _train(self, order: ev.Train, residual: bytes | None) -> ev.TrainingFinished:
        claims = order.claims
        policy, codec = order.policy, parse_codec(order.policy.codec)
        delta = delta_of(self.device, claims.step, self.disk.blobs[claims.model])
        left = np.frombuffer(residual, "<f4") if residual else np.zeros(SIZE, np.float32)
        seed = [claims.step, *self.name.encode()]  # of the stochastic rounding
        examples = 10 + int(self.name.rpartition("-")[2])
        made = make_update(
            delta,
            left,
            examples,
            tallies_of(self.device, claims.step),
            claims,
            policy,
            self.settings.identity,
            np.random.default_rng(seed),
        )
        # The same once more, for what is inside the seal.
        encoded, _ = compress_with_feedback(
            clip(delta, policy.clip_norm),
            left,
            codec,
            np.random.default_rng(seed),
            policy.clip_norm,
        )
        units = decode(encoded, codec, SIZE).units()
        self.sim.made[Digest.of(made.update)] = Made(
            self.device, claims.round, examples, units, tallies_of(self.device, claims.step)
        )
        self.trained.append(claims.round)
        return ev.TrainingFinished(
            claims.round, claims.digest, made.update, made.residual.tobytes(), made.stats
        )


@dataclass(frozen=True, eq=False)
class Made:
    """What a device put into a seal."""

    device: DeviceId
    round: int
    weight: int
    units: NDArray[np.int64]
    tallies: Tallies


def _test(job: ev.Evaluate) -> ev.Evaluated:
    return ev.Evaluated(job.model, 10, 5, 1.0, 0.1, 1)
