"""Files of samples read back: their columns once for the index, and any rows at any time."""

import os
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.sources.folder import Identity
from edge_runtime.sources.segment import (
    BROKEN,
    Block,
    Cipher,
    Head,
    parse_inside,
    place_of,
    read_head,
    scan,
    segments,
)
from qflare.faults import LocalFault, PeerFault

_BLOCK_HEAD: Final = 16  # bytes of a block in front of its inside
_OPENED_MAX: Final = 8  # sealed blocks that are kept open


@dataclass(frozen=True, slots=True)
class Columns:
    """The rows of a file, but for their values."""

    time: NDArray[np.int64]  # µs since 1970, or row numbers
    mark: NDArray[np.uint16]  # 0, or the number of a label from 1
    broken: NDArray[np.bool_]
    labels: list[str]


class Track:
    """One open file of samples; what it has when it is opened, as it may go on growing."""

    def __init__(self, path: Path, number: int, cipher: Cipher | None = None) -> None:
        """Raise LocalFault if it is none, or sealed with a key that we haven't got."""
        self.path, self._number, self._cipher = path, number, cipher
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalFault(f"{path}: {error.strerror}") from None
        weakref.finalize(self, os.close, self._file)
        self.identity = Identity.of(os.fstat(self._file))
        try:
            found = scan(self._file)
        except PeerFault as fault:
            raise LocalFault(f"{path}: {fault.detail}; move it away") from None
        self.head: Head = found.head
        self.damaged = found.damaged
        if self.head.sealed and cipher is None:
            raise LocalFault(
                f"{path} is encrypted; give the device its storage key again (see storage.key_file)"
            )
        self._blocks: list[Block] = []
        self._values: list[int] = []  # offset of each block's values inside it
        self._opened: OrderedDict[int, bytes] = OrderedDict()
        self.columns = self._read_columns(found.blocks)

    def __len__(self) -> int:
        return len(self.columns.time)

    @property
    def width(self) -> int:
        return len(self.head.names)

    def _read_columns(self, blocks: tuple[Block, ...]) -> Columns:
        times: list[NDArray[np.int64]] = []
        marks: list[NDArray[np.uint16]] = []
        labels: dict[str, int] = {}
        gaps: list[int] = []
        for block in blocks:
            try:
                data = self._inside(block)
                inside = parse_inside(data, block.rows, self.width)
            except PeerFault:
                self.damaged += block.size
                gaps.append(sum(len(time) for time in times))
                continue
            self._blocks.append(block)
            self._values.append(inside.values)
            times.append(np.frombuffer(data, "<i8", block.rows, inside.times))
            raw = np.frombuffer(data, "<u2", block.rows, inside.marks)
            numbers = [labels.setdefault(name, len(labels) + 1) for name in inside.labels]
            table = np.array([0, *numbers], np.uint16)
            which = table[np.minimum(raw & ~np.uint16(BROKEN), len(numbers))]
            marks.append(which | (raw & np.uint16(BROKEN)))
        self._firsts = np.cumsum([0, *(block.rows for block in self._blocks)])
        time = np.concatenate(times).astype(np.int64) if times else np.zeros(0, np.int64)
        mark = np.concatenate(marks) if marks else np.zeros(0, np.uint16)
        broken = (mark & BROKEN) != 0
        broken[[gap for gap in gaps if gap < len(broken)]] = True
        if self.damaged and len(broken):
            broken[self._firsts[:-1]] = True  # rows may be missing between any two blocks
        return Columns(time, mark & ~np.uint16(BROKEN), broken, list(labels))

    def _inside(self, block: Block) -> bytes:
        data = os.pread(self._file, block.size, block.offset)
        if self.head.sealed and self._cipher is not None:
            return self._cipher.open(data, place_of(self._number, block.offset - _BLOCK_HEAD))
        return data

    def values(self, first: int, count: int) -> NDArray[np.float32]:
        """Values of rows first…first + count, (count, width); LocalFault if they are gone."""
        at = int(np.searchsorted(self._firsts, first, "right")) - 1
        row = first - int(self._firsts[at])
        if row + count <= self._blocks[at].rows:
            return self._piece(at, row, count)
        pieces = []
        while count:
            many = min(count, self._blocks[at].rows - row)
            pieces.append(self._piece(at, row, many))
            at, row, count = at + 1, 0, count - many
        return np.concatenate(pieces)

    def _piece(self, at: int, row: int, count: int) -> NDArray[np.float32]:
        block, size = self._blocks[at], 4 * self.width
        offset = self._values[at] + row * size
        if not self.head.sealed:
            data = os.pread(self._file, count * size, block.offset + offset)
            if len(data) != count * size:
                raise LocalFault(f"{self.path} became shorter while it was read")
            return np.frombuffer(data, "<f4").reshape(count, self.width)
        data = self._opened.get(at, b"")
        if not data:
            try:
                data = self._opened[at] = self._inside(block)
            except PeerFault as fault:
                raise LocalFault(f"{self.path}: {fault.detail}") from None
            while len(self._opened) > _OPENED_MAX:
                self._opened.popitem(last=False)
        self._opened.move_to_end(at)
        return np.frombuffer(data, "<f4", count * self.width, offset).reshape(count, self.width)


def ring_files(folder: Path, like: Head) -> tuple[list[tuple[int, Path]], list[str]]:
    """The files of a ring whose rows are `like` these, and the names of the others."""
    found, others = [], []
    try:
        names = segments(folder)
    except OSError as error:
        raise LocalFault(
            f"{folder}: {error.strerror}; start qflare-collect, which collects samples there"
        ) from None
    for number, name in names:
        try:
            file = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # it just made room
        try:
            fits = read_head(file)[0].alike(like)
        except PeerFault:
            fits = False
        finally:
            os.close(file)
        if fits:
            found.append((number, folder / name))
        else:
            others.append(name)
    return found, others
