"""Labels out of a file of intervals: start,end,label, or several numbers in place of a label.

Times are seconds since 1970 or ISO 8601 (UTC where no zone is named). Lines that are wrong are
counted and left out; where intervals overlap, the later line counts.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.sources.record import LABEL_MAX, iso_seconds
from edge_runtime.sources.windows import NONE, UNKNOWN
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import read_bounded

FILE_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Intervals:
    """When there is which label: [start, end) in µs since 1970."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    labels: tuple[str, ...]
    numbers: NDArray[np.float32]  # (n, width); width 0 for classes
    bad: int  # lines that say nothing

    def codes(self, time: NDArray[np.int64], classes: dict[str, int]) -> NDArray[np.int32]:
        """The class of each row."""
        which = self.which(time)
        table = np.array([classes.get(name, UNKNOWN) for name in self.labels] + [NONE], np.int32)
        return table[which]

    def which(self, time: NDArray[np.int64]) -> NDArray[np.intp]:
        """The interval of each row; -1 for none."""
        found = np.full(len(time), -1, np.intp)
        if len(time):
            near = (self.ends > time.min()) & (self.starts <= time.max())
            for i in np.flatnonzero(near).tolist():
                found[(time >= self.starts[i]) & (time < self.ends[i])] = i
        return found


def read_intervals(path: Path, names: dict[str, str], width: int) -> Intervals:
    """Read a file of labels; LocalFault if it can't be read. `width` numbers, 0 for a class.

    `names` turn what stands there into the model's names.
    """
    try:
        text = read_bounded(path, FILE_MAX).decode("utf-8-sig")
    except OSError as error:
        raise LocalFault(f"{path}: data.label.file: {error.strerror}; create it") from None
    except UnicodeDecodeError:
        raise LocalFault(f"{path}: data.label.file: not UTF-8; convert it") from None
    begins: list[int] = []
    ends: list[int] = []
    labels: list[str] = []
    numbers: list[list[float]] = []
    bad = 0
    for number, line in enumerate(text.splitlines()):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            parts = next(csv.reader([line], strict=True))
            start, end = (_time(part) for part in parts[:2])
            values = [float(part) for part in parts[2:]] if width else []
            label = "" if width else parts[2].strip()
            if len(parts) != 2 + (width or 1) or not start < end or len(label) > LABEL_MAX:
                raise ValueError(line)
            if not (label or width) or not all(map(math.isfinite, values)):
                raise ValueError(line)
        except (ValueError, IndexError, OverflowError, PeerFault, csv.Error):
            bad += number > 0  # the first line may be a heading
            continue
        begins.append(round(start * 1e6))
        ends.append(round(end * 1e6))
        labels.append(names.get(label, label))
        numbers.append(values)
    return Intervals(
        np.array(begins, np.int64),
        np.array(ends, np.int64),
        tuple(labels),
        np.array(numbers, np.float32).reshape(len(begins), width),
        bad,
    )


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return iso_seconds({"time": text}, "time")
    if not abs(value) < 9e12:
        raise ValueError(text)
    return value
