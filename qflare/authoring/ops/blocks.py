"""How a convolution of stride 1 becomes one matrix product: which outputs a row of it serves.

A row of patches serves a block of neighbouring outputs at once. It is longer by what the block
reaches further, and its kernel is a band matrix with one shifted copy for each output; but there
are fewer rows to copy, and products narrower than the kernels' 32 columns waste the rest.

The block is the cheapest of all by these costs, measured in LiteRT 2.3 on one x86-64 core
(AVX-512): a product 17.6 ns for 1,000 multiplications of whole columns; gathering 2 ns for a run
of numbers and 0.07 ns for each number; a block's copy of the kernel 1 us.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]

COLUMNS: Final = 32  # of the products' fastest kernel
_TALLEST: Final = 4
_MOST_INDICES: Final = 8192  # in one operator: they are stored in the model file

# Nanoseconds.
_MULTIPLY: Final = 0.0176
_RUN: Final = 2.0
_NUMBER: Final = 0.07
_TURN: Final = 0.17  # a number of the patches, transposed for the kernel's gradient
_COPY: Final = 1000.0


@dataclass(frozen=True)
class Plan:
    """One convolution of stride 1, with zeros around the image, in blocks."""

    batch: int
    image: tuple[int, int, int]  # height, width, channels
    rows: Pair  # of zeros, before and after
    columns: Pair
    taps: Pair
    filters: int
    block: Pair = (1, 1)  # outputs: down, across

    @cached_property
    def out(self) -> Pair:
        height, width, _ = self.image
        return (
            height + sum(self.rows) - self.taps[0] + 1,
            width + sum(self.columns) - self.taps[1] + 1,
        )

    @cached_property
    def blocks(self) -> Pair:
        return -(-self.out[0] // self.block[0]), -(-self.out[1] // self.block[1])

    @cached_property
    def reach(self) -> Pair:
        """Pixels that a block reads: down, across."""
        return self.block[0] + self.taps[0] - 1, self.block[1] + self.taps[1] - 1

    @cached_property
    def size(self) -> Pair:
        """Of the padded image that whole blocks read."""
        return (
            (self.blocks[0] - 1) * self.block[0] + self.reach[0],
            (self.blocks[1] - 1) * self.block[1] + self.reach[1],
        )

    @property
    def whole(self) -> bool:
        """Whether the blocks cover the outputs exactly, across."""
        return self.blocks[1] * self.block[1] == self.out[1]

    @property
    def length(self) -> int:
        """Numbers in one patch."""
        return self.reach[0] * self.reach[1] * self.image[2]

    @property
    def cells(self) -> int:
        """Outputs that a block has."""
        return self.block[0] * self.block[1]

    @property
    def unit(self) -> int:
        """Pixels of the longest run that patches are made of."""
        return self.reach[1] if self.blocks[1] == 1 else math.gcd(self.block[1], self.reach[1])

    @property
    def plain(self) -> bool:
        """Whether the image already is its patches."""
        return self.taps == (1, 1) and self.block[0] == 1 and self.whole

    @property
    def few(self) -> bool:
        """Whether a patch is so short that a convolution with ones and zeros beats copying it."""
        return self.length <= COLUMNS

    @property
    def by_row(self) -> bool:
        """Whether runs are gathered within a row only, for fewer indices."""
        return self.taps[0] == self.block[0] == 1 or self._runs > _MOST_INDICES

    @property
    def _runs(self) -> int:
        """Of one image's patches."""
        return math.prod(self.blocks) * self.reach[0] * (self.reach[1] // self.unit)

    def cost(self, products: int) -> float:
        """Nanoseconds; 2 products if the kernel's gradient is wanted from the same patches."""
        numbers = self.batch * math.prod(self.blocks) * self.length
        width = -(-self.cells * self.filters // COLUMNS) * COLUMNS
        total = products * (numbers * width * _MULTIPLY + self.cells * _COPY)
        if self.few:
            total += numbers * COLUMNS * _MULTIPLY
        elif not self.plain:
            total += self.batch * self._runs * _RUN + numbers * _NUMBER
        outputs = self.batch * math.prod(self.out)
        if self.block[0] > 1:
            total += products * outputs * (_RUN / self.block[1] + self.filters * _NUMBER)
        if not self.whole:
            total += products * outputs * self.filters * _NUMBER
        return total + (products - 1) * numbers * _TURN

    def patch_indices(self) -> NDArray[np.int32]:
        """Runs of a padded image (or of one of its rows, if `by_row`) that make its patches."""
        across = self.size[1] // self.unit
        step = self.block[1] // self.unit if self.blocks[1] > 1 else 0
        run = np.arange(self.reach[1] // self.unit)
        runs = np.arange(self.blocks[1])[:, None] * step + run
        if self.by_row:
            return runs.ravel().astype(np.int32)
        down = np.arange(self.blocks[0])[:, None] * self.block[0] + np.arange(self.reach[0])
        found = down[:, None, :, None] * across + runs[None, :, None, :]
        return found.ravel().astype(np.int32)

    def image_indices(self) -> NDArray[np.int32]:
        """Runs of one image's blocks that make its rows."""
        row = np.arange(self.out[0])[:, None]
        across = np.arange(self.blocks[1])
        found = (row // self.block[0] * self.blocks[1] + across) * self.block[0]
        return (found + row % self.block[0]).ravel().astype(np.int32)

    def block_indices(self) -> NDArray[np.int32]:
        """Runs of an image of whole blocks that make its blocks."""
        down = np.arange(self.blocks[0])[:, None, None] * self.block[0]
        row = down + np.arange(self.block[0])
        found = row * self.blocks[1] + np.arange(self.blocks[1])[:, None]
        return found.ravel().astype(np.int32)


def cheapest(plan: Plan, products: int) -> Plan:
    """The same convolution, in the blocks that cost least."""
    return min(_choices(plan), key=lambda choice: choice.cost(products))


def _choices(plan: Plan) -> Iterator[Plan]:
    for down in range(1, min(plan.out[0], _TALLEST) + 1):
        for across in range(1, min(plan.out[1], COLUMNS) + 1):
            choice = replace(plan, block=(down, across))
            if down == 1 or not choice.by_row:
                yield choice
