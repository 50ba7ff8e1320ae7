"""Child process: a device's own trainer on one model file, with the runtime and numpy alone.

Says when the first step was done, by the system's monotonic clock, and what is resident after
many more. `--file MODEL.tflite [--steps N]`
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.training.worker import resident
from edge_runtime.contract import parse_contract
from edge_runtime.sources.base import Samples
from edge_runtime.trainer import Plan, Trainer
from qflare.host.model import ModelFile
from qflare.host.model.file import read_model_file
from qflare.zoo.formula import golden_inputs


def open_trainer(model: ModelFile) -> Trainer:
    """What a device does with a model before it trains."""
    return Trainer(parse_contract(model.tflite), model.tflite)


def train(trainer: Trainer, model: ModelFile, steps: int) -> None:
    """Train on the golden batch from the model's own weights."""
    batch = golden_inputs(model.manifest)
    samples = Samples(batch["x"], batch.get("y"))
    plan = Plan(model.manifest.golden.learning_rate, epochs=steps, seed=1)
    trainer.train(np.frombuffer(model.weights, "<f4"), samples, plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0, help="after the first")
    args = parser.parse_args()
    imported = resident()["resident"]
    model = read_model_file(args.file)
    trainer = open_trainer(model)
    train(trainer, model, 1)
    first, busy = time.monotonic(), time.process_time()
    if args.steps:
        train(trainer, model, args.steps)
    foreign = [name for name in ("tensorflow", "torch", "keras") if name in sys.modules]
    if foreign:
        raise SystemExit(f"a device has no {', '.join(foreign)}")
    said = {"first_step_at": first, "cpu_s": busy, "imported": imported, **resident()}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
