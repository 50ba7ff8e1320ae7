"""The same training in plain float arithmetic, in one process: what sealing must not cost.

Same devices, orders, schedule and step as a real run, but the updates are neither clipped,
compressed nor sealed, and their mean is plain float64.

    python -m edge_runtime.reference --workdir DIR --schedule FILE.json --seed 0 --json

reads `DIR/<device>.npz`, one file a device.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge_runtime.contract import parse_contract
from edge_runtime.seeds import training_seed
from edge_runtime.sources.base import DataSource
from edge_runtime.sources.npz import NpzSource
from edge_runtime.trainer import Trainer, plan_of
from qflare import zoo
from qflare.faults import LocalFault, PeerFault
from qflare.host.model.file import read_model_file
from qflare.names import DeviceId, Digest
from qflare.schedule import Schedule
from qflare.tensors import FloatVector, weights_from_bytes, weights_to_bytes


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """Accuracy (0…1) and mean loss on all devices' test examples after each round.

    Accuracy is the share of the examples whose class, or whose every label, is right; None for a
    task that has neither.
    """

    task: str
    accuracy_by_round: tuple[float, ...] | None
    loss_by_round: tuple[float, ...]
    final_accuracy: float | None
    final_loss: float
    update_norm_by_round: tuple[float, ...]  # the largest L2 norm of an update
    training_s: float  # time inside local training, all devices and rounds
    wall_s: float
    model: str  # digest of the final weights, hexadecimal


def run_reference(
    trainer: Trainer,
    weights: FloatVector,
    fleet: Mapping[DeviceId, DataSource],
    schedule: Schedule,
    *,
    seed: int,
    weight_cap: int = 2**20,
    rounds: int | None = None,
    cohorts: Sequence[Sequence[DeviceId]] | None = None,
    seen: Callable[[int, FloatVector], None] = lambda *_: None,
) -> ReferenceResult:
    """Run `rounds` rounds (else the schedule's) over the fleet, from flat `weights` float32 (n,).

    Personal parameters stay with their devices, and each device's test part is judged with its own.
    `cohorts` names who trained in each round; without it everybody does. An update's weight is
    its number of training samples, at most `weight_cap`. `seen` is shown each round's model.
    Raises Diverged, or LocalFault if a round has no cohort.
    """
    began = time.monotonic()
    model = np.array(weights, np.float32)
    velocity = np.zeros(model.size)
    personal: dict[DeviceId, FloatVector] = {}
    hits, losses, norms, training_s = [], [], [], 0.0
    for step in range(1, (rounds or schedule.rounds) + 1):
        total, weight_sum, largest = np.zeros(model.size), 0, 0.0
        for device in sorted(cohorts[step - 1] if cohorts else fleet):
            result = trainer.train(
                model,
                fleet[device].train(),
                plan_of(schedule, step, training_seed(seed, step, device), insecure_noise=True),
                personal=personal.get(device),
            )
            personal[device] = result.personal
            update = result.weights.astype(np.float64) - model
            weight = min(result.examples, weight_cap)
            total += weight * update
            weight_sum += weight
            training_s += result.seconds
            largest = max(largest, float(np.linalg.norm(update)))
        if not weight_sum:
            raise LocalFault(f"nobody trained in round {step}; give at least one device")
        velocity = schedule.server_momentum * velocity + total / weight_sum
        model = (model + schedule.server_learning_rate * velocity).astype(np.float32)
        accuracy, loss = _score(trainer, model, fleet, personal)
        hits.append(accuracy)
        losses.append(loss)
        norms.append(largest)
        seen(step, model)
    task = trainer.contract.manifest.task
    counted = task in ("classification", "multilabel")
    return ReferenceResult(
        task=task,
        accuracy_by_round=tuple(hits) if counted else None,
        loss_by_round=tuple(losses),
        final_accuracy=hits[-1] if counted else None,
        final_loss=losses[-1],
        update_norm_by_round=tuple(norms),
        training_s=training_s,
        wall_s=time.monotonic() - began,
        model=str(Digest.of(weights_to_bytes(model))),
    )


def _score(
    trainer: Trainer,
    model: FloatVector,
    fleet: Mapping[DeviceId, DataSource],
    personal: Mapping[DeviceId, FloatVector],
) -> tuple[float, float]:
    """The share of hits and the mean loss over everyone's test examples."""
    results = [
        trainer.evaluate(model, fleet[device].test(), personal=personal.get(device))
        for device in sorted(fleet)
    ]
    examples = max(sum(r.examples for r in results), 1)
    return sum(r.correct for r in results) / examples, sum(r.loss_sum for r in results) / examples


def from_workdir(
    workdir: Path,
    model: Path | str,
    schedule: Schedule,
    *,
    seed: int,
    weight_cap: int = 2**20,
    rounds: int | None = None,
    cohorts: Sequence[Sequence[DeviceId]] | None = None,
    seen: Callable[[int, FloatVector], None] = lambda *_: None,
) -> ReferenceResult:
    """`run_reference` over `workdir/<device>.npz` from a model file's initial weights.

    `model` is the path of a .tflite, or the name of a shipped model.
    """
    file = zoo.load(model) if model in zoo.MODELS else read_model_file(Path(model))
    contract = parse_contract(file.tflite)
    fleet = {DeviceId.parse(p.stem): NpzSource(p, contract) for p in sorted(workdir.glob("*.npz"))}
    if not fleet:
        raise LocalFault(f"{workdir} has no .npz files; give the directory of the devices' data")
    trainer = Trainer(contract, file.tflite)
    start = weights_from_bytes(file.weights, contract.spec.size)
    return run_reference(
        trainer,
        start,
        fleet,
        schedule,
        seed=seed,
        weight_cap=weight_cap,
        rounds=rounds,
        cohorts=cohorts,
        seen=seen,
    )


def table(result: ReferenceResult) -> str:
    """Accuracy, if there is such a thing, and loss by round, for people."""
    shares = result.accuracy_by_round or (None,) * len(result.loss_by_round)
    lines = [
        f"{i:5}  {'-' if share is None else format(share, '.1%'):>8}  {loss:6.3f}"
        for i, (share, loss) in enumerate(zip(shares, result.loss_by_round, strict=True), 1)
    ]
    return "\n".join(["round  accuracy    loss", *lines])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_runtime.reference", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="holds <device>.npz files")
    parser.add_argument("--schedule", type=Path, required=True, help="JSON of the Schedule")
    parser.add_argument(
        "--model", default="watch_cnn", help="a .tflite, or one of: " + ", ".join(zoo.MODELS)
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, help="other than the schedule's")
    parser.add_argument("--weight-cap", type=int, default=2**20)
    parser.add_argument("--cohorts", type=Path, help="JSON: a list of device names per round")
    parser.add_argument("--save", type=Path, metavar="FILE", help="the final weights, float32")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    args = parser.parse_args(argv)
    try:
        cohorts = None
        if args.cohorts:
            named = json.loads(args.cohorts.read_bytes())
            cohorts = [[DeviceId.parse(name) for name in cohort] for cohort in named]
        released: list[FloatVector] = []
        result = from_workdir(
            args.workdir,
            args.model,
            Schedule(**json.loads(args.schedule.read_bytes())),
            seed=args.seed,
            weight_cap=args.weight_cap,
            rounds=args.rounds,
            cohorts=cohorts,
            seen=lambda _, weights: released.append(weights),
        )
        if args.save:
            args.save.write_bytes(weights_to_bytes(released[-1]))
    except (OSError, ValueError, TypeError, KeyError, IndexError, PeerFault, LocalFault) as fault:
        print(f"reference: {fault!r}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(result)) if args.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
