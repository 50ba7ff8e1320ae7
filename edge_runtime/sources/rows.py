"""Examples that are windows of rows: found once, judged once, read where they lie."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.sources import windows
from edge_runtime.sources.base import Examples, Rows, Samples, Values
from edge_runtime.sources.labels import Intervals
from edge_runtime.sources.npz import SMALL, Scale
from edge_runtime.sources.quality import Judge, Moments, Verdict
from edge_runtime.sources.record import channel_of, label_numbers
from edge_runtime.sources.settings import DataSection
from edge_runtime.sources.split import sides
from edge_runtime.sources.tracks import Track
from edge_runtime.sources.windows import Cut

_CHUNK: Final = 2 * 1024 * 1024  # bytes of windows that are judged at a time


@dataclass(frozen=True, slots=True)
class Index:
    """The windows of one track that are fit, and why others aren't."""

    start: NDArray[np.int64]
    label: NDArray[np.int32]  # class, or the interval of a label file; -1 for none
    side: NDArray[np.int8]
    left_out: Counter[str]
    unknown: Counter[str]  # labels that the model hasn't got
    moments: Moments


class Indexer:
    """How a model's windows are found in tracks of one source."""

    def __init__(
        self, settings: DataSection, contract: ModelContract, names: Sequence[str]
    ) -> None:
        """`names` are those of the tracks' values; the model's channels are among them."""
        says = contract.manifest.input
        self.contract, self.settings = contract, settings
        self.length = says.shape[0] if len(says.shape) == 2 else 1
        self.columns = np.array([list(names).index(name) for name in says.channels], np.intp)
        self.numbers = np.array(
            [list(names).index(name) for name in label_numbers(settings)], np.intp
        )
        window = settings.window
        self.cut = Cut(
            self.length,
            window.stride or max(1, self.length * window.keep_every // 2),
            window.keep_every,
            round(window.max_gap_s * 1e6),
            settings.rate_hz,
        )
        channels = [channel_of(settings, name) for name in says.channels]
        self.judge = Judge.of(says, channels, settings.quality)
        self.classes = class_numbers(contract.manifest.classes, settings.label.names)
        self.scale = Scale(contract)

    def index(self, track: Track, intervals: Intervals | None) -> Index:
        """Look at every window of a track once."""
        columns, cut, timed = track.columns, self.cut, track.head.timed
        if not timed:
            cut = Cut(cut.length, cut.stride, cut.every, 0, 0)
        row_label = self._row_labels(track, intervals)
        groups = row_label if self.contract.manifest.task == "classification" else None
        if groups is None:
            groups = np.zeros(len(track), np.int32)
        begins = windows.breaks(columns.time, columns.broken, groups, cut)
        start = windows.starts(begins, len(track), cut)
        last = start + cut.reach - 1
        label = row_label[last] if len(start) else np.zeros(0, np.int32)
        verdict = np.zeros(len(start), np.uint8)
        if timed:
            off = windows.missing(columns.time, start, cut, self.settings.quality.missing)
            verdict[off] = Verdict.MISSING
        moments = Moments(len(self.columns))
        found = self._judged(track, start, moments)
        verdict[verdict == 0] = found[verdict == 0]
        if self.contract.label_shape is not None:
            verdict[(verdict == 0) & (label == windows.UNKNOWN)] = Verdict.UNKNOWN_LABEL
            verdict[(verdict == 0) & (label == windows.NONE)] = Verdict.UNLABELLED
        side = sides(
            columns.time[start], columns.time[last], self.settings.holdout, timed, track.path.name
        )
        verdict[(verdict == 0) & (side < 0)] = Verdict.BORDER
        left_out = Counter(
            {Verdict(v).word: int((verdict == v).sum()) for v in set(verdict.tolist()) if v}
        )
        unknown: Counter[str] = Counter()
        if (verdict == Verdict.UNKNOWN_LABEL).any():
            marks = columns.mark[start[verdict == Verdict.UNKNOWN_LABEL]]
            unknown.update(columns.labels[m - 1] for m in marks.tolist() if m)
        fit = verdict == Verdict.FIT
        return Index(start[fit], label[fit], side[fit], left_out, unknown, moments)

    def _row_labels(self, track: Track, intervals: Intervals | None) -> NDArray[np.int32]:
        """Of each row: its class; or whether it has numbers; or which interval holds them."""
        columns, task = track.columns, self.contract.manifest.task
        if intervals is not None:
            if task == "classification":
                return intervals.codes(columns.time, self.classes)
            return intervals.which(columns.time).astype(np.int32)
        if task == "classification":
            return windows.label_codes(columns.mark, columns.labels, self.classes)
        found = np.zeros(len(track), np.int32)
        if len(self.numbers) and len(track):
            y = track.values(0, len(track))[:, self.numbers]
            good = np.isfinite(y).all(axis=1)
            if task == "multilabel":
                good &= ((y == 0) | (y == 1)).all(axis=1)
            found[~good] = windows.NONE
        return found

    def _judged(
        self, track: Track, start: NDArray[np.int64], moments: Moments
    ) -> NDArray[np.uint8]:
        found = np.zeros(len(start), np.uint8)
        each = 4 * track.width * self.cut.reach
        many = max(1, _CHUNK // each)
        for first in range(0, len(start), many):
            chosen = start[first : first + many]
            x = np.stack([self.window(track, row) for row in chosen.tolist()])
            found[first : first + many] = self.judge.verdicts(x)
            moments.add(x, self.judge)
        return found

    def window(self, track: Track, start: int) -> NDArray[np.float32]:
        """(length, channels) in physical units."""
        return track.values(start, self.cut.reach)[:: self.cut.every, self.columns]


class WindowExamples:
    """Windows of several tracks, read as they are asked for."""

    def __init__(
        self,
        indexer: Indexer,
        tracks: Sequence[Track],
        indices: Sequence[Index],
        side: int,
        intervals: Intervals | None,
    ) -> None:
        self._indexer, self._tracks, self._intervals = indexer, tracks, intervals
        chosen = [index.side == side for index in indices]
        sizes = [int(which.sum()) for which in chosen]
        self._track = np.repeat(np.arange(len(tracks), dtype=np.int32), sizes)
        pairs = list(zip(indices, chosen, strict=True))
        self._start = np.concatenate([_NONE64, *(i.start[which] for i, which in pairs)])
        self._label = np.concatenate([_NONE32, *(i.label[which] for i, which in pairs)])

    def __len__(self) -> int:
        return len(self._start)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        """As `base.Examples` says."""
        indexer, numbers = self._indexer, self._indexer.numbers
        flat = None if x is None else x.reshape(len(x), indexer.length, len(indexer.columns))
        places = zip(self._track[rows].tolist(), self._start[rows].tolist(), strict=True)
        for i, (at, start) in enumerate(places):
            track = self._tracks[at]
            if flat is not None:
                flat[i] = indexer.window(track, start)
            if y is not None and len(numbers):
                last = track.values(start + indexer.cut.reach - 1, 1)[0, numbers]
                y[i] = last.reshape(y.shape[1:])
        if x is not None:
            indexer.scale.apply(x[: len(rows)])
        if y is not None and not len(numbers):
            label = self._label[rows]
            if self._intervals is not None and self._intervals.numbers.shape[1]:
                y[: len(rows)] = self._intervals.numbers[label].reshape(len(rows), *y.shape[1:])
            else:
                y[: len(rows)] = label

    def held(self, contract: ModelContract) -> Examples:
        """The same in memory, if there are few: tiny rows cost more to find than to use."""
        count, shape = len(self), contract.input_shape
        if not 0 < 4 * count * int(np.prod(shape)) <= SMALL:
            return self
        x: Values = np.empty((count, *shape), np.float32)
        y: Values | None = None
        if contract.label_shape is not None:
            y = np.empty((count, *contract.label_shape), contract.label_dtype)
        self.read(np.arange(count), x, y)
        return Samples(x, y)


_NONE64: Final[NDArray[np.int64]] = np.zeros(0, np.int64)
_NONE32: Final[NDArray[np.int32]] = np.zeros(0, np.int32)


def class_numbers(classes: Sequence[str], names: dict[str, str]) -> dict[str, int]:
    """From what is read as a label to the model's class: its name, a name for it, or its number."""
    found = {str(i): i for i in range(len(classes))}
    found |= {name: i for i, name in enumerate(classes)}
    return found | {read: found[name] for read, name in names.items() if name in found}


def totals(indices: Sequence[Index]) -> tuple[Counter[str], Counter[str], Moments | None]:
    """What was left out, labels that no class has, and the channels, over all tracks."""
    left_out: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    moments: Moments | None = None
    for index in indices:
        left_out += index.left_out
        unknown += index.unknown
        if moments is None:
            moments = Moments(index.moments.size)
        moments.join(index.moments)
    return left_out, unknown, moments


def counts(indices: Sequence[Index]) -> dict[str, Any]:
    """Examples on either side."""
    return {
        "train": sum(int((index.side == 0).sum()) for index in indices),
        "test": sum(int((index.side == 1).sum()) for index in indices),
    }
