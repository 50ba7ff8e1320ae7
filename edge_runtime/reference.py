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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge_runtime.contract import parse_contract
from edge_runtime.seeds import training_seed
from edge_runtime.sources.base import DataSource, Samples
from edge_runtime.sources.npz import NpzSource
from edge_runtime.trainer import Trainer
from qflare import zoo
from qflare.faults import LocalFault, PeerFault
from qflare.names import DeviceId, Digest
from qflare.schedule import Schedule
from qflare.tensors import FloatVector, weights_from_bytes, weights_to_bytes


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """Accuracy (0…1) and mean loss on all devices' test samples after each round."""

    accuracy_by_round: tuple[float, ...]
    loss_by_round: tuple[float, ...]
    final_accuracy: float
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
) -> ReferenceResult:
    """Run `rounds` rounds (else the schedule's) over the fleet, from flat `weights` float32 (n,).

    `cohorts` names who trained in each round; without it everybody does. An update's weight is
    its number of training samples, at most `weight_cap`. Raises Diverged, or LocalFault if a
    round has no cohort.
    """
    began = time.monotonic()
    model = np.array(weights, np.float32)
    velocity = np.zeros(model.size)
    test = _everyones_test(fleet)
    accuracy, losses, norms, training_s = [], [], [], 0.0
    for step in range(1, (rounds or schedule.rounds) + 1):
        total, weight_sum, largest = np.zeros(model.size), 0, 0.0
        for device in sorted(cohorts[step - 1] if cohorts else fleet):
            result = trainer.train(
                model,
                fleet[device].train(),
                learning_rate=schedule.learning_rate_at(step),
                epochs=schedule.local_epochs,
                seed=training_seed(seed, step, device),
            )
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
        score = trainer.evaluate(model, test)
        accuracy.append(score.correct / max(score.examples, 1))
        losses.append(score.loss_sum / max(score.examples, 1))
        norms.append(largest)
    return ReferenceResult(
        accuracy_by_round=tuple(accuracy),
        loss_by_round=tuple(losses),
        final_accuracy=accuracy[-1],
        update_norm_by_round=tuple(norms),
        training_s=training_s,
        wall_s=time.monotonic() - began,
        model=str(Digest.of(weights_to_bytes(model))),
    )


def _everyones_test(fleet: Mapping[DeviceId, DataSource]) -> Samples:
    parts = [fleet[device].test() for device in sorted(fleet)]
    return Samples(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


def from_workdir(
    workdir: Path,
    model: str,
    schedule: Schedule,
    *,
    seed: int,
    weight_cap: int = 2**20,
    rounds: int | None = None,
    cohorts: Sequence[Sequence[DeviceId]] | None = None,
) -> ReferenceResult:
    """`run_reference` over `workdir/<device>.npz` from a shipped model's initial weights."""
    files = zoo.load(model)
    contract = parse_contract(files.manifest, files.tflite)
    fleet = {DeviceId.parse(p.stem): NpzSource(p, contract) for p in sorted(workdir.glob("*.npz"))}
    if not fleet:
        raise LocalFault(f"{workdir} has no .npz files; give the directory of the devices' data")
    trainer = Trainer(contract, files.tflite)
    start = weights_from_bytes(files.weights, contract.spec.size)
    return run_reference(
        trainer,
        start,
        fleet,
        schedule,
        seed=seed,
        weight_cap=weight_cap,
        rounds=rounds,
        cohorts=cohorts,
    )


def table(result: ReferenceResult) -> str:
    """Accuracy and loss by round, for people."""
    rows = zip(result.accuracy_by_round, result.loss_by_round, strict=True)
    lines = [f"{i:5}  {a:8.1%}  {loss:6.3f}" for i, (a, loss) in enumerate(rows, 1)]
    return "\n".join(["round  accuracy    loss", *lines])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_runtime.reference", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="holds <device>.npz files")
    parser.add_argument("--schedule", type=Path, required=True, help="JSON of the Schedule")
    parser.add_argument("--model", default="watch_cnn", choices=zoo.MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, help="other than the schedule's")
    parser.add_argument("--weight-cap", type=int, default=2**20)
    parser.add_argument("--cohorts", type=Path, help="JSON: a list of device names per round")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    args = parser.parse_args(argv)
    try:
        cohorts = None
        if args.cohorts:
            named = json.loads(args.cohorts.read_bytes())
            cohorts = [[DeviceId.parse(name) for name in cohort] for cohort in named]
        result = from_workdir(
            args.workdir,
            args.model,
            Schedule(**json.loads(args.schedule.read_bytes())),
            seed=args.seed,
            weight_cap=args.weight_cap,
            rounds=args.rounds,
            cohorts=cohorts,
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, PeerFault, LocalFault) as fault:
        print(f"reference: {fault!r}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(result)) if args.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
