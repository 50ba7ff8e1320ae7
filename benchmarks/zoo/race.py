"""One model trained twice: by a fleet, and by one device that has everybody's data."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_runtime.reference import ReferenceResult, from_workdir
from edge_runtime.scoring import errors_of, score
from qflare import zoo
from qflare.names import DeviceId
from qflare.schedule import Schedule
from qflare.simulate.data import DeviceData, Labelled, fashion, shuttle, watch
from qflare.tensors import FloatVector

# Of central training, the better of two or three that were tried on validation parts.
CENTRAL_RATE = {
    "watch_cnn": 0.03,
    "watch_gru": 0.1,
    "fashion_cnn": 0.01,
    "fashion_transfer": 0.003,
    "shuttle_autoencoder": 0.01,
}
PREPARE = {"watch": watch.prepare, "fashion": fashion.prepare, "shuttle": shuttle.prepare}


@dataclass(frozen=True)
class Curve:
    """Accuracy (or the AUC of an autoencoder) and loss on everybody's test part, by round."""

    score: tuple[float, ...]
    loss: tuple[float, ...]
    recall: float | None  # of anomalies at 1 % false positives, in the end
    seconds: float


@dataclass(frozen=True)
class Race:
    """Both, of one seed."""

    federated: Curve
    central: Curve

    @property
    def gap(self) -> float:
        """By how much central training is ahead in the end."""
        return self.central.score[-1] - self.federated.score[-1]


def run(
    name: str,
    federated: Schedule,
    central: Schedule,
    cache: Path,
    *,
    seed: int,
    devices: int = 20,
    validation: bool = False,
) -> Race:
    """Train `name` on its data set with both schedules."""
    known = zoo.entry(name)
    fleet = PREPARE[known.dataset](cache, devices, seed, validation=validation)
    one = DeviceId.parse("everybody")
    everybody = [DeviceData(one, _pool([d.train for d in fleet]), _pool([d.test for d in fleet]))]
    return Race(
        _curve(name, fleet, federated, cache, seed, validation),
        _curve(name, everybody, central, cache, seed, validation),
    )


def centrally(plan: Schedule, learning_rate: float) -> Schedule:
    """As many epochs, without a server's momentum."""
    return replace(plan, learning_rate=learning_rate, server_momentum=0.0)


def _pool(parts: Sequence[Labelled]) -> Labelled:
    y = None if parts[0].y is None else np.concatenate([p.y for p in parts if p.y is not None])
    return Labelled(np.concatenate([p.x for p in parts]), y)


def _curve(
    name: str,
    fleet: Sequence[DeviceData],
    schedule: Schedule,
    cache: Path,
    seed: int,
    validation: bool,
) -> Curve:
    model = zoo.load(name)
    aucs: list[float] = []
    recall: float | None = None
    judged = None
    if model.manifest.task == "autoencoder":
        judged = shuttle.judgement(cache, validation=validation)

    def judge(_: int, weights: FloatVector) -> None:
        nonlocal recall
        if judged:
            found = score(errors_of(model, weights, judged[0]), judged[1])
            aucs.append(found.auc)
            recall = found.recall

    with tempfile.TemporaryDirectory() as folder:
        for data in fleet:
            data.write(Path(folder) / f"{data.device}.npz")
        result: ReferenceResult = from_workdir(
            Path(folder), name, schedule, seed=seed, weight_cap=4096, seen=judge
        )
    return Curve(
        tuple(aucs) or result.accuracy_by_round or (), result.loss_by_round, recall, result.wall_s
    )
