"""How well an autoencoder's error tells anomalies from what is normal.

    python -m edge_runtime.scoring --model NAME --weights FILE --data FILE.npz --json

The data file holds `x` (n, *input_shape) in physical units, of which no device trained on any, and
`anomalous` (n,), booleans.
"""

import argparse
import json
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import parse_contract
from edge_runtime.engine import Engine
from edge_runtime.sources.npz import Scale
from qflare import zoo
from qflare.faults import LocalFault, PeerFault
from qflare.host.model import ModelFile
from qflare.host.model.file import read_model_file
from qflare.tensors import FloatVector, weights_from_bytes

FALSE_POSITIVES = 0.01


@dataclass(frozen=True, slots=True)
class Score:
    """`auc` is the chance that an anomaly's error is above a normal example's (area under ROC).

    `recall` is the share of anomalies above an error that FALSE_POSITIVES of the normal exceed.
    """

    auc: float
    recall: float


def score(errors: NDArray[np.floating[Any]], anomalous: NDArray[np.bool_]) -> Score:
    """Judge errors, (n,), of which `anomalous`, (n,), says what they are of; pure.

    LocalFault unless there are both normal examples and anomalies, with finite errors.
    """
    normal, strange = errors[~anomalous], errors[anomalous]
    if not len(normal) or not len(strange):
        raise LocalFault("a score needs both normal examples and anomalies; give some of each")
    if not np.isfinite(errors).all():
        raise LocalFault("the model's errors aren't finite; it diverged")
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, strange, "left")
    to = np.searchsorted(ordered, strange, "right")  # a tie counts one half
    auc = float((below + to).sum()) / (2 * len(normal) * len(strange))
    limit = np.quantile(normal, 1 - FALSE_POSITIVES)
    return Score(auc, float((strange > limit).mean()))


def errors_of(model: ModelFile, weights: FloatVector, x: NDArray[Any]) -> NDArray[np.float64]:
    """The mean squared difference between each example and what the model gives back, (n,).

    x (n, *input_shape) is in physical units; differences are in those that the model sees.
    """
    contract = parse_contract(model.tflite)
    if contract.manifest.task != "autoencoder":
        raise LocalFault(f"{contract.name} is a {contract.manifest.task}, not an autoencoder")
    engine = Engine(contract, model.tflite)
    scale, batch = Scale(contract), contract.batch
    found = np.zeros(len(x))
    with engine.alone():
        engine.load(weights, engine.initial_personal())
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            filled = np.zeros((batch, *contract.input_shape), np.float32)
            filled[: len(part)] = part
            scale.apply(filled)
            output = engine.call["infer"](x=filled)["output"]
            off = ((output - filled).astype(np.float64) ** 2).reshape(batch, -1).mean(axis=1)
            found[start : start + len(part)] = off[: len(part)]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_runtime.scoring", description=__doc__)
    parser.add_argument("--model", required=True, help="a .tflite, or a model of the zoo")
    parser.add_argument("--weights", type=Path, required=True, help="float32 little-endian, flat")
    parser.add_argument("--data", type=Path, required=True, help="x and anomalous, in a .npz")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    args = parser.parse_args(argv)
    try:
        file = (
            zoo.load(args.model) if args.model in zoo.MODELS else read_model_file(Path(args.model))
        )
        weights = weights_from_bytes(args.weights.read_bytes(), file.manifest.size)
        with np.load(args.data, allow_pickle=False) as data:
            x, anomalous = data["x"], data["anomalous"].astype(bool)
        found = score(errors_of(file, weights, x), anomalous)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, PeerFault, LocalFault) as fault:
        print(f"scoring: {fault}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(asdict(found)))
    else:
        share = f"{FALSE_POSITIVES:.0%}"
        print(f"AUC {found.auc:.4f}, recall {found.recall:.1%} at {share} false positives")
    return 0


if __name__ == "__main__":
    sys.exit(main())
