"""Numbers that everyone can make from a formula: the golden batch "sine/1".

All arithmetic is float64 until the last function is taken, then rounded to float32.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qflare.host.model import Manifest

SINE_1: Final = "sine/1"
GOLDEN_MU: Final = 0.1
GOLDEN_CLIP: Final = 0.5
_MASKED: Final = 2  # examples at the end of the batch
_KINDS: Final = 4  # of examples where there are no classes


def golden_weights(initial: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flat weights, (size,), to start a golden run from: initial[i] + 0.02 sin(12.9898 (i + 1)).

    For personal parameters, i counts anew. Initial weights alone would have too many zeros.
    """
    i = np.arange(initial.size, dtype=np.float64)
    return (initial + 0.02 * np.sin(12.9898 * (i + 1))).astype(np.float32)


def golden_inputs(manifest: Manifest) -> dict[str, NDArray[Any]]:
    """What every step of a golden run feeds `train`, but for the learning rate.

    x, y and m are those of `sine_batch`; without classes, kind b mod 4 stands for the class, and
    y[b, j] = sin(0.3 (b + 1) (j + 1)) over the flat index j of an output, or whether that is
    positive for a multilabel model. An input of whole numbers is 1 where the sine is positive,
    else 0. x is raw: a model that caches features is fed `features` of it.
    mu is GOLDEN_MU. r[k] = frac(0.6180339887 (k + 1)) over the flat index k. clip is GOLDEN_CLIP,
    and z[k] = 0.01 sin(78.233 (k + 1)).
    """
    batch, task = manifest.batch, manifest.task
    kinds = manifest.rows if task == "classification" else _KINDS
    x, classes, mask = sine_batch(batch, tuple(manifest.input.shape), kinds)
    found: dict[str, NDArray[Any]] = {
        "x": (x > 0).astype(np.int32) if manifest.input.dtype == "int32" else x,
        "m": mask,
        "mu": np.array([GOLDEN_MU], np.float32),
    }
    if task == "classification":
        found["y"] = classes
    elif task != "autoencoder":
        b, j = np.arange(batch)[:, None], np.arange(math.prod(manifest.output))
        y = np.sin(0.3 * (b + 1.0) * (j + 1.0)).reshape(batch, *manifest.output)
        found["y"] = (y > 0 if task == "multilabel" else y).astype(np.float32)
    if manifest.noise:
        k = np.arange(batch * manifest.noise, dtype=np.float64)
        r = np.modf(0.6180339887 * (k + 1))[0].astype(np.float32)
        found["r"] = np.minimum(r, np.float32(1 - 2**-24)).reshape(batch, manifest.noise)
    if manifest.private:
        k = np.arange(manifest.size + manifest.personal_size, dtype=np.float64)
        found["clip"] = np.array([GOLDEN_CLIP], np.float32)
        found["z"] = (0.01 * np.sin(78.233 * (k + 1))).astype(np.float32)
    return found


def sine_weights(size: int) -> NDArray[np.float32]:
    """Flat weights, (size,): w[i] = 0.3 sin(12.9898 (i + 1))."""
    i = np.arange(size, dtype=np.float64)
    return (0.3 * np.sin(12.9898 * (i + 1))).astype(np.float32)


def sine_batch(
    batch: int, shape: tuple[int, ...], classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """A batch: x (batch, *shape), y (batch,), mask (batch,).

    y[b] = b mod classes, and x[b, i] = sin(0.05 (1 + y[b]) (i + 1) + 0.7 b) over the flat index i
    of an example, so that the classes can be told apart. The last two examples are masked out,
    as long as one stays.
    """
    b = np.arange(batch)
    y = b % classes
    i = np.arange(math.prod(shape), dtype=np.float64)
    x = np.sin(0.05 * (1 + y[:, None]) * (i + 1) + 0.7 * b[:, None])
    return (
        x.reshape(batch, *shape).astype(np.float32),
        y.astype(np.int32),
        (b < max(batch - _MASKED, 1)).astype(np.float32),
    )
