"""The worker: trains, seals and evaluates, for one device or for many that share a process.

A job reads nothing but blobs and samples, and gives back the event that the machine waits for. One
thread may use a workbench at a time: it keeps one interpreter per model, and every call sets the
weights anew, so that devices share it without sharing anything else. A workbench belongs to the
process that made it.
"""

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from edge_runtime import residual
from edge_runtime.evaluation import evenly_spaced, tallies
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
from edge_runtime.pacing import Pace, Pacer, Stopped, Unpaced
from edge_runtime.resident import peak_rss_kb
from edge_runtime.sealing import Identity, make_update
from edge_runtime.seeds import Draw, generator, training_seed
from edge_runtime.store import BlobGone, Blobs
from qflare.faults import LocalFault, PeerFault
from qflare.names import Digest
from qflare.tensors import FloatVector, weights_from_bytes, weights_to_bytes

if TYPE_CHECKING:
    from edge_runtime.contract import ModelContract
    from edge_runtime.features import FeatureFile
    from edge_runtime.sources.base import Examples
    from edge_runtime.sources.npz import NpzSource
    from edge_runtime.trainer import Trainer

Outcome = TrainingFinished | TrainingFailed | Evaluated | EvaluationFailed | BlobLost
Part = Literal["train", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "test")
_EXPECTED: Final = (LocalFault, PeerFault, MemoryError, OSError, RuntimeError, ValueError)
FEATURE_FILES_MAX: Final = 64  # open at a time; a device has two, a simulated fleet many


@dataclass(frozen=True)
class Limits:
    """How much of the machine training may take; `pacing.Pacer` says what each of them means."""

    max_seconds: float = 0.0
    duty: float = 1.0


@dataclass(frozen=True)
class Bench:
    """What a job needs of the device that it runs for."""

    identity: Identity
    blobs: Blobs
    data: Path
    insecure_seed: int | None
    scratch: Path = Path()  # a directory for large intermediate results
    limits: Limits = Limits()


@dataclass(frozen=True, eq=False)
class TrainJob:
    """One `Train` effect; `stop` ends it early, and while `hold` is set it waits."""

    order: Train
    bench: Bench
    residual: bytes | None = field(repr=False)  # residual.to_bytes of the last compression's
    personal: bytes | None = field(default=None, repr=False)  # float32, of the last training
    stop: Event = field(default_factory=Event)
    hold: Event = field(default_factory=Event)


class Workbench:
    """Interpreters, checked data files and features, made once each."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._trainers: dict[Digest, Trainer] = {}
        self._sources: dict[Path, NpzSource] = {}
        self._features: OrderedDict[tuple[Path, Part], FeatureFile] = OrderedDict()

    def train(self, job: TrainJob) -> Outcome:
        """Train, compress, seal and sign; the event says how it went."""
        order, claims = job.order, job.order.claims
        try:
            return self._train(job)
        except BlobGone as fault:
            return BlobLost(fault.blob, str(fault))
        except _EXPECTED as fault:
            return TrainingFailed(order.round, claims.digest, f"{type(fault).__name__}: {fault}")
        except Stopped:
            return TrainingFailed(order.round, claims.digest, "stopped", stopped=True)

    def _train(self, job: TrainJob) -> Outcome:
        from edge_runtime.trainer import plan_of

        order, bench = job.order, job.bench
        claims, policy, limits = order.claims, order.policy, bench.limits
        pace = Pacer(
            job.stop,
            job.hold,
            max_seconds=limits.max_seconds,
            duty=limits.duty,
            threads=self._threads,
        )
        pace.step()
        trainer = self._trainer(order.graph, bench.blobs)
        contract = trainer.contract
        start = weights_from_bytes(bench.blobs.read(claims.model), contract.spec.size)
        mine = _personal(job.personal, contract)
        insecure = bench.insecure_seed is not None
        seed = secrets.randbits(64)
        if bench.insecure_seed is not None:
            seed = training_seed(bench.insecure_seed, claims.step, bench.identity.device)
        plan = plan_of(policy.schedule, claims.step, seed, insecure_noise=insecure)
        train, test = (self._examples(trainer, bench.data, part, bench, pace) for part in PARTS)
        rows = evenly_spaced(len(test), policy.weight_cap)
        before = trainer.evaluate(start, test, personal=mine, rows=rows, pace=pace)
        began = time.time()
        result = trainer.train(start, train, plan, personal=mine, pace=pace)
        ended = time.time()
        after = trainer.evaluate(
            result.weights, test, personal=result.personal, rows=rows, pace=pace
        )
        made = make_update(
            result.weights - start,
            residual.from_bytes(job.residual, len(start)),
            result.examples,
            tallies(before, after),
            claims,
            policy,
            bench.identity,
            generator(seed, Draw.ROUNDING),
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
            residual.to_bytes(made.residual),
            RoundStats(stats.stages, tuple(sorted(counters.items()))),
            weights_to_bytes(result.personal) if contract.personal else None,
        )

    def evaluate(self, order: Evaluate, bench: Bench, personal: bytes | None = None) -> Outcome:
        """Run a model on the test part: a model that can't isn't taken into its slot."""
        began = time.perf_counter()
        pace = Unpaced()
        try:
            trainer = self._trainer(order.graph, bench.blobs)
            contract = trainer.contract
            weights = weights_from_bytes(bench.blobs.read(order.model), contract.spec.size)
            examples = self._examples(trainer, bench.data, "test", bench, pace)
            result = trainer.evaluate(weights, examples, personal=_personal(personal, contract))
            if not np.isfinite(result.loss_sum):
                raise LocalFault("its loss is not finite on the test part")
        except BlobGone as fault:
            return BlobLost(fault.blob, str(fault))
        except _EXPECTED as fault:
            return EvaluationFailed(order.model, f"{type(fault).__name__}: {fault}")
        seconds = time.perf_counter() - began
        return Evaluated(
            order.model, result.examples, result.correct, result.loss_sum, seconds, peak_rss_kb()
        )

    def _trainer(self, graph: Digest, blobs: Blobs) -> "Trainer":
        """The interpreter over this model, self-tested once on the golden batch."""
        # Imported late: an idle device, or one that is never invited, needs no interpreter.
        from edge_runtime.contract import parse_contract
        from edge_runtime.trainer import Trainer

        found = self._trainers.get(graph)
        if found is None:
            tflite = blobs.read(graph)
            found = Trainer(parse_contract(tflite), tflite, self._threads)
            found.self_test()
            self._trainers = {graph: found}
            self._sources.clear()
            self._features.clear()
        return found

    def _source(self, path: Path, contract: "ModelContract") -> "NpzSource":
        """The data file, checked once for this model and again whenever it is another one."""
        from edge_runtime.sources.npz import NpzSource

        found = self._sources.get(path)
        if found is None or not found.fresh:
            for part in PARTS:
                self._features.pop((path, part), None)
            found = self._sources[path] = NpzSource(path, contract)
        return found

    def _examples(
        self, trainer: "Trainer", path: Path, part: Part, bench: Bench, pace: Pace
    ) -> "Examples":
        """One part of the device's data, with the frozen part of the model done if it can be."""
        from edge_runtime.features import Kept

        source = self._source(path, trainer.contract)
        raw = source.train() if part == "train" else source.test()
        if not trainer.contract.features_shape:
            return raw
        key = (path, part)
        found = self._features.get(key) or trainer.features(raw, bench.scratch, pace)
        if found is None:
            return raw
        self._features[key] = found
        self._features.move_to_end(key)
        while len(self._features) > FEATURE_FILES_MAX:
            self._features.popitem(last=False)
        return Kept(raw, found)


def _personal(data: bytes | None, contract: "ModelContract") -> FloatVector | None:
    """The personal parameters as last trained; None, if that was of another model."""
    if data is None or len(data) != 4 * contract.personal_size:
        return None
    return weights_from_bytes(data, contract.personal_size)
