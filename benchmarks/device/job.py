"""The job that both train: the demo's model and data, for a device each; and what it costs alone.

`python -m benchmarks.device.job FOLDER --rounds N` trains as a device does, and prints the seconds
of processor time that the training steps of a round take, without all else that a device does.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

DEVICES = 2  # take part; the first is measured
RATE = 0.05


@dataclass(frozen=True)
class Job:
    """Files and numbers of the job of one device after the other."""

    model: Path  # TFLite
    weights: Path  # npz, named as the model's signatures name them
    data: tuple[Path, ...]
    batch: int
    epochs: int
    parameters: int
    name: str

    @property
    def says(self) -> str:
        return (
            f"{self.name}, {self.parameters:,} parameters, batches of {self.batch}, "
            f"{self.epochs} epochs"
        )


def make(folder: Path, seed: int = 0) -> Job:
    """Write the job's files; the data are those that `qflare simulate` gives its devices."""
    import numpy as np

    from edge_runtime.contract import parse_contract
    from qflare.simulate import data
    from qflare.simulate.data.cache import cache_dir
    from qflare.simulate.options import Options

    options = Options(devices=DEVICES, seed=seed)
    made = options.model_file
    contract = parse_contract(made.tflite)
    parts = contract.spec.split(np.frombuffer(made.weights, "<f4"))
    job = Job(
        folder / "model.tflite",
        folder / "weights.npz",
        tuple(folder / f"device-{number}.npz" for number in range(1, DEVICES + 1)),
        contract.batch,
        options.schedule.local_epochs,
        contract.spec.size,
        contract.name,
    )
    job.model.write_bytes(made.tflite)
    np.savez(job.weights, **{f"w{i}": part for i, part in enumerate(parts.values())})
    shares = data.loader(options.dataset)(cache_dir(folder / "cache"), DEVICES, seed)
    like = made.manifest.input
    for path, share in zip(job.data, shares, strict=True):
        share.write(path)
        with np.load(path) as samples:  # only what is trained on, and scaled as a device would
            x, y = (samples["x_train"] - like.mean) / like.scale, samples["y_train"]
        np.savez(path, x=x.astype(np.float32), y=y)
    return job


def alone(model: Path, data: Path, epochs: int, rounds: int) -> float:
    """Processor time of a round's training by QFLARE's trainer, in seconds, mean of `rounds`."""
    import numpy as np

    from edge_runtime.contract import parse_contract
    from edge_runtime.sources.base import Samples
    from edge_runtime.trainer import Plan, Trainer
    from qflare.host.model.file import read_model

    tflite = model.read_bytes()
    trainer = Trainer(parse_contract(tflite), tflite)
    weights = np.frombuffer(read_model(tflite).weights, "<f4")
    with np.load(data) as samples:
        examples = Samples(samples["x"], samples["y"])
    plan = Plan(RATE, epochs, seed=0)
    trainer.train(weights, examples, plan)
    began = time.process_time()
    for _ in range(rounds):
        trainer.train(weights, examples, plan)
    return (time.process_time() - began) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    print(json.dumps({"cpu_s": alone(args.model, args.data, args.epochs, args.rounds)}))


if __name__ == "__main__":
    main()
