"""Examples, and the protocol of whatever supplies them."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
Values = NDArray[Any]  # float32 or int32


class Examples(Protocol):
    """Numbered examples as the model wants them, that need not fit into memory."""

    def __len__(self) -> int: ...

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        """Fill x[:len(rows)] and y[:len(rows)] with these examples and their labels.

        Either may be None if it isn't wanted. Raises LocalFault if the examples are gone.
        """
        ...


class DataSource(Protocol):
    """Where a device's examples come from."""

    def train(self) -> Examples:
        """What the device may train on, now."""
        ...

    def test(self) -> Examples:
        """What the device never trains on; may be empty."""
        ...


class Source(DataSource, Protocol):
    """A device's data as `opening.open_source` opens it: what it was then."""

    @property
    def fresh(self) -> bool:
        """Is it still as it is on disk? Otherwise it is to be opened again."""
        ...

    def count(self) -> int:
        """Examples to train on."""
        ...

    def report(self) -> dict[str, Any]:
        """What was found, what was left out and why: plain values, as JSON takes them."""
        ...


@dataclass(frozen=True, slots=True)
class Samples:
    """Examples in memory: x (n, *input shape), scaled for the model; y (n, *label) or None."""

    x: Values
    y: Values | None

    def __len__(self) -> int:
        return len(self.x)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        if x is not None:
            np.take(self.x, rows, axis=0, out=x[: len(rows)], mode="clip")
        if y is not None and self.y is not None:
            np.take(self.y, rows, axis=0, out=y[: len(rows)], mode="clip")


# Up to here a whole permutation is drawn, 8 bytes an example; beyond, memory would grow with it.
_PERMUTED_MAX: Final = 2**17
_BLOCK: Final = 4096  # places of the order that are computed at a time


class Order:
    """The order of an epoch: each of `size` examples once, whatever fits into memory."""

    def __init__(self, size: int, random: np.random.Generator) -> None:
        """Draw it. Equal generators give equal orders."""
        self._size = size
        self._drawn: Rows | None = None
        if size <= _PERMUTED_MAX:
            self._drawn = random.permutation(size)
        else:
            self._keys = random.integers(0, 2**63, 6, np.uint64)
            self._half = np.uint64((max(size - 1, 1).bit_length() + 1) // 2)
            self._block, self._first = np.zeros(0, np.intp), 0

    def rows(self, start: int, end: int) -> Rows:
        """The examples at these places of the order."""
        if self._drawn is not None:
            return self._drawn[start:end]
        end = min(end, self._size)
        if not self._first <= start <= end <= self._first + len(self._block):
            self._first = start
            self._block = self._computed(start, min(max(end, start + _BLOCK), self._size))
        return self._block[start - self._first : end - self._first]

    def _computed(self, start: int, end: int) -> Rows:
        rows = self._scrambled(np.arange(start, end, dtype=np.uint64))
        while (outside := rows >= self._size).any():
            rows[outside] = self._scrambled(rows[outside])
        return rows.astype(np.intp)

    def _scrambled(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """A Feistel network over the next even power of two: a permutation for any round function.

        Walking on until the result is inside permutes a smaller range (Black and Rogaway, "Ciphers
        with arbitrary finite domains", CT-RSA 2002).
        """
        half = self._half
        mask = np.uint64((1 << int(half)) - 1)
        left, right = places >> half, places & mask
        for key in self._keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ (mixed >> np.uint64(32) & mask)
        return left << half | right
