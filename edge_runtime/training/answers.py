"""From what the training process says to the event that the machine waits for. No arrays."""

from contextlib import suppress
from pathlib import Path
from time import perf_counter

from edge_runtime import events as ev
from edge_runtime.acceptance import Scores
from edge_runtime.memory import RoundStats
from edge_runtime.resident import peak_rss_kb
from edge_runtime.sealing import Identity, seal
from edge_runtime.training.messages import (
    WORDS_MAX,
    Evaluation,
    Failed,
    Lost,
    Result,
    Trained,
    TrainOrder,
)
from qflare.faults import LocalFault, PeerFault


def ceiling(blobs: Path, order: TrainOrder) -> int:
    """How many bytes an honest answer has at most.

    The update is no longer than the weights and the residual half as long; personal parameters
    start from values that are inside the graph.
    """
    size = 0
    for blob, times in ((order.model, 2), (order.graph, 1)):
        with suppress(OSError):  # it is gone: the answer will say so
            size += times * (blobs / str(blob)).stat().st_size
    return size + WORDS_MAX


def of_training(
    result: Result, order: ev.Train, identity: Identity
) -> ev.TrainingFinished | ev.TrainingFailed | ev.BlobLost:
    """Seal and sign what was trained; else say why there is nothing."""
    claims = order.claims
    match result:
        case Trained():
            try:
                return _finished(result, order, identity)
            except (LocalFault, PeerFault) as fault:
                return ev.TrainingFailed(order.round, claims.digest, str(fault))
        case Lost():
            return ev.BlobLost(result.blob, result.reason)
        case Failed():
            return ev.TrainingFailed(order.round, claims.digest, result.reason, result.stopped)
    return ev.TrainingFailed(order.round, claims.digest, "the training process answered another")


def _finished(result: Trained, order: ev.Train, identity: Identity) -> ev.TrainingFinished:
    began = perf_counter()
    update = seal(
        result.encoded, result.examples, result.tallies, order.claims, order.policy, identity
    )
    stats = RoundStats(result.stages).with_stage("seal", perf_counter() - began)
    counters = dict(result.counters) | {"update_bytes": len(update)}
    counters["rss_kb"] = counters.get("rss_kb", 0) + peak_rss_kb()  # of both processes
    return ev.TrainingFinished(
        order.round,
        order.claims.digest,
        update,
        result.residual,
        RoundStats(stats.stages, tuple(sorted(counters.items()))),
        result.personal,
    )


def of_evaluation(
    result: Result, order: ev.Evaluate
) -> ev.Evaluated | ev.EvaluationFailed | ev.BlobLost:
    """How the model did here."""
    match result:
        case Evaluation():
            return ev.Evaluated(
                order.model,
                result.examples,
                result.correct,
                result.loss_sum,
                result.seconds,
                result.rss_kb + peak_rss_kb(),
                None if result.before is None else Scores(*result.before),
                result.counted,
            )
        case Lost():
            return ev.BlobLost(result.blob, result.reason)
        case Failed():
            return ev.EvaluationFailed(order.model, result.reason, result.verdict)
    return ev.EvaluationFailed(order.model, "the training process answered another")
