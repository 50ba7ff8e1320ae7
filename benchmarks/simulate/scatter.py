"""What compression costs in accuracy, told from chance: the default fleet in one process.

`python -m benchmarks.simulate.scatter [--seeds 12] [--codec q4z]`

Trains on the data of seed 0, once for each training seed in plain float arithmetic and once with
the codec, clipping and error feedback that devices use; and then in plain float several times
with initial weights that differ by a millionth, which shows what no arithmetic can be blamed for.
"""

import argparse
import math
import tempfile
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from edge_runtime import residual
from edge_runtime.contract import parse_contract
from edge_runtime.seeds import Draw, generator, training_seed
from edge_runtime.sources.npz import NpzSource
from edge_runtime.trainer import Trainer, plan_of
from qflare import zoo
from qflare.compression import parse_codec
from qflare.compression.codecs import decode
from qflare.compression.encoding import clip, compress_with_feedback
from qflare.compression.table import Codec
from qflare.names import DeviceId
from qflare.simulate import data
from qflare.simulate.options import Options, complete, policy
from qflare.tensors import FloatVector, weights_from_bytes

PERTURBED = 6  # runs whose initial weights differ by a millionth


class Fleet:
    """The default fleet of `qflare simulate`, with the data of seed 0."""

    def __init__(self, folder: Path) -> None:
        options = complete({field.name: field.default for field in fields(Options)} | _FOLLOWS)
        self.policy = policy(options)
        file = zoo.load(options.model)
        contract = parse_contract(file.tflite)
        self.trainer = Trainer(contract, file.tflite)
        self.start = np.array(weights_from_bytes(file.weights, contract.spec.size))
        self.sources: dict[DeviceId, NpzSource] = {}
        for share in data.loader(options.dataset)(folder, options.devices, options.seed):
            path = folder / f"{share.device}.npz"
            share.write(path)
            self.sources[share.device] = NpzSource(path, contract)

    def train(self, seed: int, codec: Codec | None, start: FloatVector) -> float:
        """The final accuracy of a whole training."""
        schedule, norm = self.policy.schedule, self.policy.clip_norm
        model, velocity = np.array(start, np.float32), np.zeros(start.size)
        left: dict[DeviceId, bytes] = {}
        for step in range(1, schedule.rounds + 1):
            total, weights = np.zeros(model.size), 0
            for device in sorted(self.sources):
                draw = training_seed(seed, step, device)
                plan = plan_of(schedule, step, draw, insecure_noise=True)
                result = self.trainer.train(model, self.sources[device].train(), plan)
                update = result.weights - model
                if codec is not None:
                    encoded, rest = compress_with_feedback(
                        clip(update, norm),
                        residual.from_bytes(left.get(device), model.size),
                        codec,
                        generator(draw, Draw.ROUNDING),
                        norm,
                    )
                    left[device] = residual.to_bytes(rest)
                    update = decode(encoded, codec, model.size).values()
                weight = min(result.examples, self.policy.weight_cap)
                total += weight * update.astype(np.float64)
                weights += weight
            velocity = schedule.server_momentum * velocity + total / weights
            model = (model + schedule.server_learning_rate * velocity).astype(np.float32)
        found = [self.trainer.evaluate(model, it.test()) for it in self.sources.values()]
        return sum(it.correct for it in found) / sum(it.examples for it in found)


_FOLLOWS = {"devices": None, "rounds": None, "dataset": None}  # from the model, as the command's do


def main() -> None:
    """Print each run, the mean gap with its standard error, and the scatter of plain float."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--codec", default="q4z")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fleet, gaps = Fleet(Path(folder)), []
        for seed in range(args.seeds):
            plain = fleet.train(seed, None, fleet.start)
            coded = fleet.train(seed, parse_codec(args.codec), fleet.start)
            gaps.append(coded - plain)
            print(f"seed {seed:2}: plain {plain:.1%}, {args.codec} {coded:.1%}", flush=True)
        if len(gaps) > 1:
            error = stdev(gaps) / math.sqrt(len(gaps))
            print(
                f"gap: {100 * mean(gaps):+.1f} ± {100 * error:.1f} points (standard error); "
                f"one run scatters by {100 * stdev(gaps):.1f}"
            )
        finals = []
        for run in range(PERTURBED):
            noise = np.random.Generator(np.random.PCG64(run)).standard_normal(fleet.start.size)
            finals.append(fleet.train(0, None, (fleet.start * (1 + 1e-6 * noise)).astype("f4")))
        print(
            f"plain float with initial weights changed by a millionth: {min(finals):.1%} to "
            f"{max(finals):.1%}"
        )


if __name__ == "__main__":
    main()
