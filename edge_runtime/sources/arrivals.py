"""How many samples came since an update was made of those before. No numpy: the daemon asks.

Collected samples are counted as rows, in the ring's own count. Files are told by the time at which
they came under their name or were last changed (st_ctime, which copying with dates doesn't move),
and one that has changed counts in whole.
"""

import ast
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from edge_runtime.sources.folder import Identity, list_files
from edge_runtime.sources.ring import rows_collected
from edge_runtime.sources.settings import DataSection
from qflare.faults import LocalFault

_ROWS, _AT_MS = "arrived_rows", "arrived_at_ms"  # figures of a round's journal
_ENDINGS: Final = {
    "npz": (".npz",),
    "npz-folder": (".npz",),
    "csv": (".csv", ".tsv", ".txt"),
    "camera": (".jpg", ".jpeg", ".png"),
}
_KNOWN_MAX: Final = 4096  # files whose samples needn't be counted again
_HEADER_MAX: Final = 64 * 1024
_PIECE: Final = 1024 * 1024
SHARE: Final = 0.01  # of the time that looking may take


@dataclass(frozen=True, slots=True)
class Mark:
    """What there was at a moment: rows ever collected, and the wall clock in milliseconds."""

    rows: int
    at_ms: int

    def counters(self) -> dict[str, int]:
        """For the journal of a round."""
        return {_ROWS: self.rows, _AT_MS: self.at_ms}

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> "Mark | None":
        """From such a journal; None from one that has no such figures."""
        rows, at = counters.get(_ROWS), counters.get(_AT_MS)
        return None if rows is None or at is None else cls(rows, at)


NOTHING: Final = Mark(0, 0)  # everything is new


class Arrivals:
    """Of one source. Looking takes SHARE of the time at most: in between the last answer holds."""

    def __init__(
        self,
        settings: DataSection,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._clock, self._wall = settings, clock, wall
        self._known: OrderedDict[tuple[str, Identity], int] = OrderedDict()
        self._last: tuple[Mark, int] | None = None
        self._again = 0.0

    def mark(self) -> Mark:
        """What there is now; cheap."""
        rows = rows_collected(self._settings.path) if self._settings.collected else 0
        return Mark(rows, int(self._wall() * 1000) + 1)

    def since(self, mark: Mark) -> int | None:
        """Samples that came after `mark`; None for a kind whose samples can't be counted."""
        if not self._settings.counted:
            return None
        began = self._clock()
        if self._last is not None and self._last[0] == mark and began < self._again:
            return self._last[1]
        found = self._count(mark)
        self._last = mark, found
        self._again = began + (self._clock() - began) / SHARE
        return found

    def _count(self, mark: Mark) -> int:
        settings = self._settings
        if settings.collected:
            return max(0, rows_collected(settings.path) - mark.rows)
        try:
            listing = list_files(settings.path, _ENDINGS[settings.kind])
        except (LocalFault, OSError):
            return 0
        root, total = settings.path, 0
        for name, identity in listing.items():
            path = root if root.is_file() else root / name
            with suppress(OSError):
                if path.stat().st_ctime_ns > mark.at_ms * 1_000_000:
                    total += self._samples(name, identity, path)
        return total

    def _samples(self, name: str, identity: Identity, path: Path) -> int:
        if self._settings.kind == "camera":
            return 1
        key = name, identity
        found = self._known.get(key)
        if found is None:
            count = _lines if self._settings.kind == "csv" else _examples
            found = self._known[key] = count(path)
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        return found


def _lines(path: Path) -> int:
    """Lines of a table without the one of the names."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            lines += piece.count(b"\n")
            last = piece[-1:]
    return max(0, lines + (last != b"\n") - 1)


def _examples(path: Path) -> int:
    """Examples to train on, by the head of one array of an .npz; 0 if there is none such.

    The head is text of a Python literal: a dictionary with the shape (numpy.lib.format).
    """
    import zipfile  # 1 MB, and only such files need it

    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            name = next((n for n in ("x_train.npy", "x.npy") if n in names), None)
            if name is None:
                return 0
            with archive.open(name) as file:
                return _first_dimension(file)
    except Exception:  # whatever a damaged file makes them stumble over; who trains on it says what
        return 0


def _first_dimension(file: IO[bytes]) -> int:
    head = file.read(8)
    if len(head) != 8 or head[:6] != b"\x93NUMPY":
        return 0
    wide = "<H" if head[6] == 1 else "<I"
    (length,) = struct.unpack(wide, file.read(struct.calcsize(wide)))
    if length > _HEADER_MAX:
        return 0
    said = ast.literal_eval(file.read(length).decode("latin-1").strip())
    shape = said.get("shape") if isinstance(said, dict) else None
    first = shape[0] if isinstance(shape, tuple) and shape else 0
    return first if type(first) is int and first > 0 else 0
