"""Samples, and the protocol of whatever supplies them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Samples:
    """Examples as the model wants them: x float32 (n, *input_shape), y int32 (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Batch:
    """`batch` examples, of which those with mask 1 count and the others are zeros."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    mask: NDArray[np.float32]
    count: int


class DataSource(Protocol):
    """Where a device's samples come from."""

    def train(self) -> Samples:
        """What the device may train on, now."""
        ...

    def test(self) -> Samples:
        """What the device never trains on; may be empty."""
        ...


def batches(samples: Samples, size: int, order: NDArray[np.intp]) -> Iterator[Batch]:
    """Yield the samples in this order, `size` at a time; the last batch may be part mask."""
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        count = len(chosen)
        if count == size:
            yield Batch(samples.x[chosen], samples.y[chosen], np.ones(size, np.float32), count)
            continue
        x = np.zeros((size, *samples.x.shape[1:]), np.float32)
        y, mask = np.zeros(size, np.int32), np.zeros(size, np.float32)
        x[:count], y[:count], mask[:count] = samples.x[chosen], samples.y[chosen], 1.0
        yield Batch(x, y, mask, count)
