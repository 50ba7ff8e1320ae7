"""Orders for the training process, and what the daemon makes of its answers."""

from dataclasses import replace
from pathlib import Path

import msgspec

from edge_runtime import events as ev
from edge_runtime.training import answers
from edge_runtime.training.messages import Bench, EvaluateOrder, TrainOrder
from edge_runtime.workbench import Workbench
from qflare.names import Digest
from tests.edge_lab import DEVICE, Lab


def bench_in(folder: Path, seed: int | None = 7) -> Bench:
    """A device whose samples are in data.npz and whose blobs are in blobs/."""
    data = msgspec.json.encode({"path": str(folder / "data.npz")})
    return Bench(DEVICE, str(folder / "blobs"), str(folder), data, seed)


def keep_blobs(folder: Path, *blobs: bytes) -> None:
    (folder / "blobs").mkdir(exist_ok=True)
    for data in blobs:
        (folder / "blobs" / str(Digest.of(data))).write_bytes(data)


def order_of(
    effect: ev.Train,
    bench: Bench,
    residual: bytes | None = None,
    personal: bytes | None = None,
    number: int = 1,
) -> TrainOrder:
    claims, policy = effect.claims, effect.policy
    return TrainOrder(
        number,
        bench,
        effect.graph,
        claims.model,
        claims.step,
        policy.schedule,
        policy.codec,
        policy.clip_norm,
        policy.weight_cap,
        residual,
        personal,
    )


def train(
    workbench: Workbench,
    lab: Lab,
    effect: ev.Train,
    bench: Bench,
    residual: bytes | None = None,
    personal: bytes | None = None,
) -> ev.TrainingFinished | ev.TrainingFailed | ev.BlobLost:
    """As the two processes do it, in one."""
    result = workbench.do(order_of(effect, bench, residual, personal))
    return answers.of_training(result, effect, lab.identity)


def evaluate(
    workbench: Workbench, effect: ev.Evaluate, bench: Bench, personal: bytes | None = None
) -> ev.Evaluated | ev.EvaluationFailed | ev.BlobLost:
    result = workbench.do(EvaluateOrder(1, bench, effect.graph, effect.model, personal))
    return answers.of_evaluation(result, effect)


def elsewhere(bench: Bench, data: Path) -> Bench:
    return replace(bench, data=msgspec.json.encode({"path": str(data)}))
