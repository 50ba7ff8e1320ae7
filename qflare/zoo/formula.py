"""Numbers that everyone can make from a formula: the golden batch "sine/1".

All arithmetic is float64 until the last sine is taken, then rounded to float32.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

SINE_1: Final = "sine/1"


def sine_weights(size: int) -> NDArray[np.float32]:
    """Flat weights, (size,): w[i] = 0.3 sin(12.9898 (i + 1))."""
    i = np.arange(size, dtype=np.float64)
    return (0.3 * np.sin(12.9898 * (i + 1))).astype(np.float32)


def sine_batch(
    batch: int, shape: tuple[int, ...], classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """A batch: x (batch, *shape), y (batch,), mask (batch,).

    y[b] = b mod classes, and x[b, i] = sin(0.05 (1 + y[b]) (i + 1) + 0.7 b) over the flat index i
    of an example, so that the classes can be told apart. The last two examples are masked out.
    """
    b = np.arange(batch)
    y = b % classes
    i = np.arange(math.prod(shape), dtype=np.float64)
    x = np.sin(0.05 * (1 + y[:, None]) * (i + 1) + 0.7 * b[:, None])
    return (
        x.reshape(batch, *shape).astype(np.float32),
        y.astype(np.int32),
        (b < batch - 2).astype(np.float32),
    )
