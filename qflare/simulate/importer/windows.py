"""Where recordings begin and end, and which windows are cut from them; pure."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

GAP_INTERVALS: Final = 3.0  # a pause that is longer than so many intervals ends a recording


@dataclass(frozen=True, slots=True)
class Recording:
    """Rows start…stop of one device: one label, no gap; from `cut` on it is the test part."""

    start: int
    cut: int
    stop: int
    label: int


def interval(time: Floats) -> float | None:
    """Seconds between two rows, typically; None if no row is after another."""
    between = np.diff(time)
    forward = between[between > 0]
    return float(np.median(forward)) if len(forward) else None


def recordings(
    time: Floats | None,
    piece: NDArray[np.int32],
    label: NDArray[np.int32],
    test: float,
    max_gap: float | None,
) -> list[Recording]:
    """Cut one device's rows wherever a window must not cross.

    That is where a row was left out (`piece` changes), where the label changes, where the time goes
    back or stands still, and where it jumps by more than `max_gap` seconds, or GAP_INTERVALS times
    the usual interval. Without `time`, rows are next to each other.
    """
    broken = (np.diff(piece) != 0) | (np.diff(label) != 0)
    if time is not None:
        between = np.diff(time)
        usual = interval(time)
        limit = max_gap if max_gap is not None else GAP_INTERVALS * (usual or np.inf)
        broken |= (between <= 0) | (between > limit)
    edges = [0, *(np.flatnonzero(broken) + 1).tolist(), len(piece)]
    return [
        Recording(start, stop - math.ceil((stop - start) * test), stop, int(label[start]))
        for start, stop in pairwise(edges)
        if stop > start
    ]


def starts(first: int, end: int, window: int, step: int) -> Integers:
    """Where the windows of rows first…end begin: all that fit."""
    return np.arange(first, end - window + 1, step, dtype=np.int64)
