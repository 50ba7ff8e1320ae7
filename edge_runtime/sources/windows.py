"""Where windows begin in a recording, and what their labels are. Pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

GAP_INTERVALS: Final = 3.0  # a pause that is longer than so many intervals ends a recording
NONE: Final = -1  # of a row: it has no label
UNKNOWN: Final = -2  # it has one that the model doesn't know


@dataclass(frozen=True, slots=True)
class Cut:
    """How windows are cut: `length` kept rows, every `every`-th of the rows that are there."""

    length: int
    stride: int
    every: int
    gap_us: int  # 0: three intervals
    rate_hz: float  # of the rows that are there; 0 if they have none

    @property
    def reach(self) -> int:
        """Rows from a window's first to its last, both counted."""
        return (self.length - 1) * self.every + 1


def breaks(
    time: NDArray[np.int64], broken: NDArray[np.bool_], label: NDArray[np.int32], cut: Cut
) -> NDArray[np.intp]:
    """The rows, of n, that begin a recording: no window crosses into them."""
    if not len(time):
        return np.zeros(0, np.intp)
    begins = broken.copy()
    begins[0] = True
    if len(time) > 1:
        between = np.diff(time)
        begins[1:] |= (np.diff(label) != 0) | (between <= 0)
        limit = _gap(between, cut)
        if limit:
            begins[1:] |= between > limit
    return np.flatnonzero(begins)


def _gap(between: NDArray[np.int64], cut: Cut) -> float:
    if cut.gap_us:
        return float(cut.gap_us)
    if cut.rate_hz:
        return GAP_INTERVALS * 1e6 / cut.rate_hz
    if cut.length == 1:
        return 0.0  # single rows have no neighbours to be far from
    forward = between[between > 0]
    return GAP_INTERVALS * float(np.median(forward)) if len(forward) else 0.0


def starts(begins: NDArray[np.intp], rows: int, cut: Cut) -> NDArray[np.int64]:
    """The first rows of all windows that fit between the recordings' beginnings.

    They are counted from each recording's beginning, so that rows that come later change nothing.
    """
    if not rows:
        return np.zeros(0, np.int64)
    ends = np.append(begins[1:], rows)
    found = [
        np.arange(a, b - cut.reach + 1, cut.stride, dtype=np.int64)
        for a, b in zip(begins.tolist(), ends.tolist(), strict=True)
        if b - a >= cut.reach
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def missing(
    time: NDArray[np.int64], begin: NDArray[np.int64], cut: Cut, tolerance: float
) -> NDArray[np.bool_]:
    """Windows that last longer or shorter than their rate says, by more than `tolerance` of it."""
    if not tolerance or not cut.rate_hz or cut.length == 1:
        return np.zeros(len(begin), np.bool_)
    lasts = (time[begin + cut.reach - 1] - time[begin]) * 1e-6
    should = (cut.reach - 1) / cut.rate_hz
    off: NDArray[np.bool_] = np.abs(lasts - should) > tolerance * should + 1.5e-6
    return off


def label_codes(
    marks: NDArray[np.uint16], names: list[str], classes: dict[str, int]
) -> NDArray[np.int32]:
    """The model's class of each row: NONE without a label, UNKNOWN for one that it hasn't got.

    `marks` are 0 or numbers of `names` from 1.
    """
    table = np.array([NONE, *(classes.get(name, UNKNOWN) for name in names)], np.int32)
    return table[np.minimum(marks, len(names))]
