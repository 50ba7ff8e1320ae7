"""What the training process works at: trains, compresses and evaluates, for one device or for many.

A job reads nothing but blobs and samples, and gives back what the daemon waits for. One thread may
use a workbench at a time: it keeps one interpreter per model, and every call sets the weights anew,
so that devices share it without sharing anything else. A workbench belongs to the process that
made it. Everything heavy is imported when the first job needs it.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final, Literal

from edge_runtime.acceptance import Unusable
from edge_runtime.pacing import Pace, Pacer, Stopped
from edge_runtime.resident import peak_rss_kb
from edge_runtime.training.data import mark_of, open_data
from edge_runtime.training.messages import (
    PROBLEMS_MAX,
    REASON_MAX,
    Bench,
    DataFound,
    EvaluateOrder,
    Evaluation,
    Failed,
    Lost,
    Order,
    Result,
    Trained,
    TrainOrder,
)
from edge_runtime.training.pace import ToldPace
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import read_bounded
from qflare.messages import BLOB_MAX
from qflare.names import Digest

if TYPE_CHECKING:
    from edge_runtime.contract import ModelContract
    from edge_runtime.features import FeatureFile
    from edge_runtime.sources.base import Examples, Source
    from edge_runtime.trainer import Trainer
    from qflare.tensors import FloatVector

Part = Literal["train", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "test")
_EXPECTED: Final = (LocalFault, PeerFault, OSError, RuntimeError, ValueError)
FEATURE_FILES_MAX: Final = 64  # open at a time; a device has two, a simulated fleet many


class BlobMissing(LocalFault):
    """A blob can't be read, or isn't what its name says."""

    def __init__(self, blob: Digest, why: str) -> None:
        super().__init__(f"blob {blob.short}: {why}; it will be fetched again")
        self.blob = blob


def _silent(_stage: str, _steps: int) -> None:
    """Nobody wants to know how far a job is."""


class Workbench:
    """Interpreters, checked data files and features, made once each."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._trainers: dict[Digest, Trainer] = {}
        self._sources: dict[bytes, Source] = {}
        self._features: OrderedDict[tuple[bytes, Part], FeatureFile] = OrderedDict()
        self._looked_at: list[DataFound] = []

    def do(
        self,
        order: Order,
        stop: Event | None = None,
        hold: Event | None = None,
        say: Callable[[str, int], None] = _silent,
    ) -> Result:
        """Train or evaluate; `stop` ends it early, and while `hold` is set a training waits.

        `say` hears the stage and its steps now and then.
        """
        stop = stop or Event()
        try:
            if isinstance(order, TrainOrder):
                bench = order.bench
                pacer = Pacer(
                    stop,
                    hold,
                    max_seconds=bench.max_seconds,
                    duty=bench.duty,
                    threads=self._threads,
                )
                return self._train(order, ToldPace(pacer, say))
            return self._evaluate(order, ToldPace(Pacer(stop), say))
        except BlobMissing as fault:
            return Lost(order.job, fault.blob, str(fault)[:REASON_MAX])
        except MemoryError:
            reason = "the training process reached its limit of memory"
            return Failed(order.job, reason, spent=True)
        except _EXPECTED as fault:
            # The C++ side says it so when the limit of memory is reached.
            spent = "bad_alloc" in str(fault)
            reason = f"{type(fault).__name__}: {fault}"[:REASON_MAX]
            verdict = isinstance(fault, PeerFault | Unusable)
            return Failed(order.job, reason, spent=spent, verdict=verdict)
        except Stopped:
            return Failed(order.job, "stopped", stopped=True)

    def looked_at(self) -> list[DataFound]:
        """What was found in data that was opened since this was last asked."""
        found, self._looked_at = self._looked_at, []
        return found

    def _train(self, order: TrainOrder, pace: ToldPace) -> Result:
        import numpy as np

        from edge_runtime import residual
        from edge_runtime.evaluation import evenly_spaced, tallies
        from edge_runtime.seeds import Draw, generator, training_seed
        from edge_runtime.trainer import plan_of
        from qflare.compression import parse_codec
        from qflare.compression.encoding import clip, compress_with_feedback
        from qflare.tensors import weights_to_bytes

        bench = order.bench
        pace.stage("preparing")
        pace.step()
        trainer = self._trainer(order.graph, bench)
        contract = trainer.contract
        start = _weights(bench, order.model, contract)
        mine = _personal(order.personal, contract)
        insecure = bench.insecure_seed is not None
        seed = secrets.randbits(64)
        if bench.insecure_seed is not None:
            seed = training_seed(bench.insecure_seed, order.step, bench.device)
        plan = plan_of(order.schedule, order.step, seed, insecure_noise=insecure)
        arrived = mark_of(bench.data)  # what comes later is new
        train, test = (self._examples(trainer, part, bench, pace) for part in PARTS)
        rows = evenly_spaced(len(test), order.weight_cap)
        pace.stage("testing")
        before = trainer.evaluate(start, test, personal=mine, rows=rows, pace=pace)
        pace.stage("training")
        began = time.time()
        result = trainer.train(start, train, plan, personal=mine, pace=pace)
        ended = time.time()
        pace.stage("testing again")
        after = trainer.evaluate(
            result.weights, test, personal=result.personal, rows=rows, pace=pace
        )
        pace.stage("compressing")
        compressing = time.perf_counter()
        encoded, left = compress_with_feedback(
            clip(result.weights - start, order.clip_norm),
            residual.from_bytes(order.residual, len(start)),
            parse_codec(order.codec),
            generator(seed, Draw.ROUNDING),
            order.clip_norm,
        )
        compressed = time.perf_counter() - compressing
        counters = {
            "encoded_bytes": len(encoded),
            "examples": result.examples,
            "float32_bytes": 4 * len(start),
            "rss_kb": peak_rss_kb(),
            "steps": result.steps,
            "train_began_ms": round(began * 1000),
            "train_ended_ms": round(ended * 1000),
            **arrived,
        }
        return Trained(
            job=order.job,
            examples=result.examples,
            encoded=encoded,
            tallies=tuple(int(n) for n in tallies(before, after)),
            residual=residual.to_bytes(left.astype(np.float32)),
            personal=weights_to_bytes(result.personal) if contract.personal else None,
            stages=(("compress", compressed), ("train", float(result.seconds))),
            counters=tuple(sorted(counters.items())),
        )

    def _evaluate(self, order: EvaluateOrder, pace: ToldPace) -> Result:
        """A model that can't do this isn't taken into its slot."""
        from edge_runtime.candidate import Candidate, try_model
        from edge_runtime.slots import Slots

        began = time.perf_counter()
        bench = order.bench
        pace.stage("preparing")
        trainer = self._trainer(order.graph, bench)
        candidate = Candidate(order.model, _blob(bench, order.graph), _blob(bench, order.model))
        mine = _personal(order.personal, trainer.contract)
        examples = None
        with suppress(LocalFault):  # no data: training says what is wrong with it
            self._source(bench, trainer.contract, pace)
            examples = self._examples(trainer, "test", bench, pace)
        pace.stage("testing")
        slots = Slots(Path(order.slots)) if order.slots else None
        found = try_model(trainer, candidate, mine, examples, slots, pace)
        scores, before = found.scores, found.before
        return Evaluation(
            order.job,
            scores.examples,
            scores.correct,
            scores.loss_sum,
            time.perf_counter() - began,
            peak_rss_kb(),
            None if before is None else (before.examples, before.correct, before.loss_sum),
            found.counted,
        )

    def _trainer(self, graph: Digest, bench: Bench) -> "Trainer":
        """The interpreter over this model, self-tested once on the golden batch."""
        from edge_runtime.contract import parse_contract
        from edge_runtime.trainer import Trainer

        found = self._trainers.get(graph)
        if found is None:
            tflite = _blob(bench, graph)
            found = Trainer(parse_contract(tflite), tflite, self._threads)
            try:
                found.self_test()
            except LocalFault as fault:
                raise Unusable(str(fault)) from None
            self._trainers = {graph: found}
            self._sources.clear()
            self._features.clear()
        return found

    def _source(self, bench: Bench, contract: "ModelContract", pace: Pace) -> "Source":
        """The data, checked once for this model and again whenever it is other data."""
        found = self._sources.get(bench.data)
        if found is None or not found.fresh:
            for part in PARTS:
                self._features.pop((bench.data, part), None)
            scratch, key = Path(bench.scratch), bench.samples_key
            found = open_data(bench.data, contract, scratch, found, key, pace)
            self._sources[bench.data] = found
            self._looked_at.append(_told(bench, found.report()))
        return found

    def _examples(self, trainer: "Trainer", part: Part, bench: Bench, pace: Pace) -> "Examples":
        """One part of the device's data, with the frozen part of the model done if it can be."""
        from edge_runtime.features import Kept

        source = self._source(bench, trainer.contract, pace)
        raw = source.train() if part == "train" else source.test()
        if not trainer.contract.features_shape:
            return raw
        key = (bench.data, part)
        found = self._features.get(key) or trainer.features(raw, Path(bench.scratch), pace)
        if found is None:
            return raw
        self._features[key] = found
        self._features.move_to_end(key)
        while len(self._features) > FEATURE_FILES_MAX:
            self._features.popitem(last=False)
        return Kept(raw, found)


def _told(bench: Bench, report: dict[str, Any]) -> DataFound:
    examples, problems = report["examples"], report["problems"][:PROBLEMS_MAX]
    return DataFound(
        bench.device,
        int(examples["train"]),
        int(examples["test"]),
        tuple(sorted((str(why), int(many)) for why, many in report["left_out"].items())),
        tuple(str(problem)[:REASON_MAX] for problem in problems),
    )


def _blob(bench: Bench, blob: Digest) -> bytes:
    """A blob out of the store's directory, checked. The daemon alone writes and removes there."""
    try:
        data = read_bounded(Path(bench.blobs) / str(blob), BLOB_MAX)
    except (OSError, LocalFault) as error:
        raise BlobMissing(blob, f"cannot be read: {error}") from None
    if Digest.of(data) != blob:
        raise BlobMissing(blob, "is damaged")
    return data


def _weights(bench: Bench, model: Digest, contract: "ModelContract") -> "FloatVector":
    from qflare.tensors import weights_from_bytes

    return weights_from_bytes(_blob(bench, model), contract.spec.size)


def _personal(data: bytes | None, contract: "ModelContract") -> "FloatVector | None":
    """The personal parameters as last trained; None, if that was of another model."""
    from qflare.tensors import weights_from_bytes

    if data is None or len(data) != 4 * contract.personal_size:
        return None
    return weights_from_bytes(data, contract.personal_size)
