"""The worker: trains, seals and evaluates, for one device or for many that share a process.

A job reads nothing but blobs and samples, and gives back the event that the machine waits for. One
thread may use a workbench at a time: it keeps one interpreter per model, and every call sets the
weights anew, so that devices share it without sharing anything else.
"""

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.events import (
    BlobLost,
    Evaluate,
    Evaluated,
    EvaluationFailed,
    Train,
    TrainingFailed,
    TrainingFinished,
)
from edge_runtime.memory import RoundStats
from edge_runtime.sealing import Identity, make_update
from edge_runtime.seeds import training_seed
from edge_runtime.store import BlobGone, Blobs
from qflare.faults import LocalFault, PeerFault
from qflare.names import Digest
from qflare.tensors import FloatVector, weights_from_bytes, weights_to_bytes

if TYPE_CHECKING:
    from edge_runtime.sources.npz import NpzSource
    from edge_runtime.trainer import Trainer

Outcome = TrainingFinished | TrainingFailed | Evaluated | EvaluationFailed | BlobLost


@dataclass(frozen=True)
class Bench:
    """What a job needs of the device that it runs for."""

    identity: Identity
    blobs: Blobs
    data: Path
    insecure_seed: int | None


@dataclass(frozen=True, eq=False)
class TrainJob:
    """One `Train` effect; `stop` ends it early."""

    order: Train
    bench: Bench
    residual: bytes | None = field(repr=False)  # float32, of the last compression
    personal: bytes | None = field(default=None, repr=False)  # float32 LE, of the last training
    stop: Event = field(default_factory=Event)


class Workbench:
    """Interpreters and samples, loaded once each."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._trainers: dict[tuple[Digest, Digest], Trainer] = {}
        self._sources: dict[tuple[Path, Digest], NpzSource] = {}

    def train(self, job: TrainJob) -> Outcome:
        """Train, compress, seal and sign; the event says how it went."""
        order, claims = job.order, job.order.claims
        try:
            return self._train(job)
        except BlobGone as fault:
            return BlobLost(fault.blob, str(fault))
        except (LocalFault, PeerFault, MemoryError, RuntimeError, ValueError) as fault:
            return TrainingFailed(order.round, claims.digest, f"{type(fault).__name__}: {fault}")
        except _Interrupted:
            return TrainingFailed(order.round, claims.digest, "stopped", stopped=True)

    def _train(self, job: TrainJob) -> Outcome:
        from edge_runtime.trainer import Stopped

        order, bench = job.order, job.bench
        claims, schedule = order.claims, order.policy.schedule
        if job.stop.is_set():
            raise _Interrupted
        trainer = self._trainer(order.graph, order.contract, bench.blobs)
        samples = self._source(bench, order.contract, trainer).train()
        start = weights_from_bytes(bench.blobs.read(claims.model), trainer.contract.spec.size)
        seed = secrets.randbits(64)
        if bench.insecure_seed is not None:
            seed = training_seed(bench.insecure_seed, claims.step, bench.identity.device)
        began = time.time()
        try:
            result = trainer.train(
                start,
                samples,
                learning_rate=schedule.learning_rate_at(claims.step),
                epochs=schedule.local_epochs,
                seed=seed,
                should_stop=job.stop.is_set,
            )
        except Stopped:
            raise _Interrupted from None
        ended = time.time()
        rounding = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, 1))))
        made = make_update(
            result.weights - start,
            _residual(job.residual, len(start)),
            result.examples,
            claims,
            order.policy,
            bench.identity,
            rounding,
        )
        stats = made.stats.with_stage("train", result.seconds)
        counters = dict(stats.counters) | {
            "examples": result.examples,
            "rss_kb": peak_rss_kb(),
            "steps": result.steps,
            "train_began_ms": round(began * 1000),
            "train_ended_ms": round(ended * 1000),
        }
        return TrainingFinished(
            order.round,
            claims.digest,
            made.update,
            weights_to_bytes(made.residual),
            RoundStats(stats.stages, tuple(sorted(counters.items()))),
        )

    def evaluate(self, order: Evaluate, bench: Bench) -> Outcome:
        """Run a model on the test part: a model that can't isn't taken into its slot."""
        began = time.perf_counter()
        try:
            trainer = self._trainer(order.graph, order.contract, bench.blobs)
            weights = weights_from_bytes(bench.blobs.read(order.model), trainer.contract.spec.size)
            samples = self._source(bench, order.contract, trainer).test()
            result = trainer.evaluate(weights, samples)
            if not np.isfinite(result.loss_sum):
                raise LocalFault("its loss is not finite on the test part")
        except BlobGone as fault:
            return BlobLost(fault.blob, str(fault))
        except (LocalFault, PeerFault, MemoryError, RuntimeError, ValueError) as fault:
            return EvaluationFailed(order.model, f"{type(fault).__name__}: {fault}")
        seconds = time.perf_counter() - began
        return Evaluated(
            order.model, result.examples, result.correct, result.loss_sum, seconds, peak_rss_kb()
        )

    def _trainer(self, graph: Digest, contract: Digest, blobs: Blobs) -> "Trainer":
        """The interpreter over this model, self-tested once on the golden batch."""
        # Imported late: an idle device, or one that is never invited, needs no interpreter.
        from edge_runtime.contract import parse_contract
        from edge_runtime.trainer import Trainer

        found = self._trainers.get((graph, contract))
        if found is None:
            tflite = blobs.read(graph)
            found = Trainer(parse_contract(blobs.read(contract), tflite), tflite, self._threads)
            found.self_test()
            self._trainers = {(graph, contract): found}
            self._sources.clear()
        return found

    def _source(self, bench: Bench, contract: Digest, trainer: "Trainer") -> "NpzSource":
        from edge_runtime.sources.npz import NpzSource

        key = (bench.data, contract)
        found = self._sources.get(key)
        if found is None:
            found = self._sources[key] = NpzSource(bench.data, trainer.contract)
        return found


def _residual(data: bytes | None, size: int) -> FloatVector:
    """What is left over from the last update; nothing, if that was of another model."""
    if data is None or len(data) != 4 * size:
        return np.zeros(size, np.float32)
    return weights_from_bytes(data, size)


class _Interrupted(Exception):
    """The job's `stop` was set."""


def peak_rss_kb() -> int:
    """The most memory that this process ever had resident, KiB; 0 where there is no /proc.

    Not getrusage: its maximum starts with that of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
