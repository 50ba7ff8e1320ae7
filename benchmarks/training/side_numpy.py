"""The dense models by hand: every array is made once, and nothing is computed twice."""

from typing import Final

import numpy as np

from benchmarks.training.models import BATCH, MOMENTUM, Array, Model, batches, initial_weights

DENSE: Final = ("mlp", "mlp_har", "autoencoder")


def variants(model: Model) -> tuple[str, ...]:
    """The ways in which this framework can train `model`; the faster counts."""
    return ("by hand",) if model.name in DENSE else ()


def version() -> str:
    """What is measured."""
    return f"numpy {np.__version__}"


class Side:
    """Forward and backward passes of a stack of dense layers, SGD with momentum."""

    def __init__(self, model: Model, variant: str, threads: int, file: str) -> None:
        del variant, threads, file  # OpenBLAS reads its threads from the environment
        self._model, self._batches = model, batches(model)
        self.reset()

    def reset(self) -> None:
        weights = initial_weights(self._model)
        self.weights = weights
        self._kernels, self._biases = weights[::2], weights[1::2]
        self._velocity = [np.zeros_like(w) for w in weights]

    def step(self, i: int) -> float:
        x, y = self._batches[i % len(self._batches)]
        outputs = [x]
        for kernel, bias in zip(self._kernels, self._biases, strict=True):
            h = outputs[-1] @ kernel
            h += bias
            if len(outputs) < len(self._kernels):
                self._activate(h)
            outputs.append(h)
        loss, d = self._loss(outputs.pop(), x, y)
        for layer in reversed(range(len(self._kernels))):
            below = outputs[layer]
            d_kernel, d_bias = below.T @ d, d.sum(axis=0)
            if layer:
                d = d @ self._kernels[layer].T
                d *= below > 0 if self._model.classes else 1 - below * below
            self._move(2 * layer, self._kernels[layer], d_kernel)
            self._move(2 * layer + 1, self._biases[layer], d_bias)
        return loss

    def _activate(self, h: Array) -> None:
        if self._model.classes:
            np.maximum(h, 0, out=h)
        else:
            np.tanh(h, out=h)

    def _loss(self, out: Array, x: Array, y: object) -> tuple[float, Array]:
        if y is None:
            error = out - x
            return float(np.mean(error * error)), error * np.float32(2 / error.size)
        rows = np.arange(BATCH)
        out -= out.max(axis=1, keepdims=True)
        picked = out[rows, y]
        np.exp(out, out=out)
        total = out.sum(axis=1)
        loss = float(np.mean(np.log(total) - picked))
        out /= total[:, None]
        out[rows, y] -= 1
        out /= BATCH
        return loss, out

    def _move(self, index: int, weight: Array, gradient: Array) -> None:
        velocity = self._velocity[index]
        velocity *= np.float32(MOMENTUM)
        velocity += gradient
        weight -= np.float32(self._model.learning_rate) * velocity
