"""QFLARE: the `train` signature of a model file, in the TFLite interpreter."""

from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np

from benchmarks.training.models import BATCH, Model, batches, initial_weights
from edge_runtime.interpreter import open_interpreter


def variants(model: Model) -> tuple[str, ...]:
    """The ways in which this framework can train `model`."""
    del model
    return ("LiteRT",)


def version() -> str:
    """What is measured."""
    for name in ("ai-edge-litert", "tflite-runtime"):
        try:
            return f"{name} {version_of(name)}"
        except ImportError:
            continue
    return "no TFLite interpreter"


class Side:
    """numpy arrays in, a loss out, as the device does it."""

    def __init__(self, model: Model, variant: str, threads: int, file: str) -> None:
        del variant
        self._interpreter = open_interpreter(Path(file).read_bytes(), threads)
        runner = self._interpreter.get_signature_runner
        self._train, self._set = runner("train"), runner("set_weights")
        self._reset = runner("reset")
        self._initial = {f"w{i}": value for i, value in enumerate(initial_weights(model))}
        one = np.ones(1, np.float32)
        fixed = {"m": np.ones(BATCH, np.float32), "lr": one * np.float32(model.learning_rate)}
        if "mu" in self._train.get_input_details():
            fixed["mu"] = 0 * one
        self._batches = [
            {"x": x, **({} if y is None else {"y": y}), **fixed} for x, y in batches(model)
        ]

    def reset(self) -> None:
        self._set(**self._initial)
        self._reset()

    def step(self, i: int) -> float:
        return float(self._train(**self._batches[i % len(self._batches)])["loss"][0])
