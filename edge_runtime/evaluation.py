"""How well a model does on examples, and the sums of it that a device adds to an update. Pure."""

from dataclasses import dataclass

import numpy as np

from edge_runtime.sources.base import Rows
from qflare.faults import LocalFault
from qflare.tallies import LOSS_BITS, LOSS_MAX, Tallies


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How a model did on some examples; sums, so that results of many devices can be added.

    A row is a class for a classification; otherwise there is one row for everything.
    """

    examples_by_row: tuple[int, ...]
    correct_by_row: tuple[int, ...]
    loss_sum: float

    @property
    def examples(self) -> int:
        return sum(self.examples_by_row)

    @property
    def correct(self) -> int:
        return sum(self.correct_by_row)


def evenly_spaced(size: int, limit: int) -> Rows:
    """All of `size` examples, or `limit` of them that are spread over the whole."""
    kept = min(size, limit)
    return np.arange(kept, dtype=np.intp) * size // max(kept, 1)


def tallies(before: EvalResult, after: EvalResult) -> Tallies:
    """For each row examples, correct before, correct after; then the loss before and after.

    Both are of the same examples. Losses are in units of 2^-LOSS_BITS, at most LOSS_MAX for each
    example. Raises LocalFault if a loss isn't finite, for there is no number that would be true.
    """
    if before.examples_by_row != after.examples_by_row:
        raise LocalFault("the model was tested on other examples before than after; try again")
    found: list[int] = []
    for counts in zip(
        before.examples_by_row, before.correct_by_row, after.correct_by_row, strict=True
    ):
        found += counts
    for result in (before, after):
        if not np.isfinite(result.loss_sum):
            raise LocalFault("the loss on the test part is not finite; lower the learning rate")
        units = round(result.loss_sum * 2**LOSS_BITS)
        found.append(min(max(units, 0), result.examples * LOSS_MAX))
    return tuple(found)
