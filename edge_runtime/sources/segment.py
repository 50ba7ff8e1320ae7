"""Files of samples: a head, then blocks, each with a checksum. No numpy: the collector's.

A file only grows, by whole blocks. After a power cut its tail may be torn or anything at all;
`scan` says where the last good block ends. All numbers are little-endian:

    file    b"QFSEG1\\r\\n"  u32 size  u32 CRC-32  size bytes: JSON of `Head`
    block   b"QFB1"  u32 size  u32 rows  u32 CRC-32 (of size, rows and what follows)  size bytes
    inside  u16 labels, each u16 size and UTF-8; then by column: i64 time (µs since 1970) of each
            row, u16 mark of each row, float32 values of each row

A mark's low 15 bits are 0 for no label or the label's number from 1; its top bit says that samples
are missing in front. With a key, what is inside is AES-256-GCM of that: nonce, ciphertext, tag.
"""

import os
import struct
import sys
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol

from msgspec import Meta

from qflare.faults import PeerFault, Reason
from qflare.host.typed import Typed, Unfit, decode, encode

MAGIC: Final = b"QFSEG1\r\n"
MARK: Final = b"QFB1"
BROKEN: Final = 0x8000
LABELS_MAX: Final = 0x7FFF
HEAD_MAX: Final = 1024 * 1024
BLOCK_MAX: Final = 64 * 1024 * 1024  # bytes inside
FILE_MAX: Final = 1024 * 1024 * 1024
_SIZES: Final = struct.Struct("<II")
_BLOCK: Final = struct.Struct("<4sIII")
_SEARCHES_MAX: Final = 1000  # for a good block behind a damaged one

_Text = Annotated[str, Meta(min_length=1, max_length=200)]
_Texts = Annotated[tuple[_Text, ...], Meta(max_length=4096 + 64)]


class Head(Typed):
    """What the rows of a file are; `before` is how many came in the files in front of it."""

    format: Literal["qflare-samples/1"]
    names: _Texts  # of the values: channels, then numeric labels
    units: _Texts
    rate_hz: Annotated[float, Meta(ge=0, le=1e7)]
    before: Annotated[int, Meta(ge=0, le=2**62)]
    sealed: bool
    timed: bool = True  # else times are row numbers

    def __post_init__(self) -> None:
        if len(self.names) != len(self.units):
            raise ValueError("one unit per name is wanted")

    def alike(self, other: "Head") -> bool:
        """Do rows of both fit together?"""
        mine = (self.names, self.units, self.rate_hz, self.timed)
        return mine == (other.names, other.units, other.rate_hz, other.timed)


class Cipher(Protocol):
    """Encrypts what is inside a block; `place` is authenticated with it."""

    def seal(self, data: bytes, place: bytes) -> bytes: ...

    def open(self, data: bytes, place: bytes) -> bytes:
        """Raise PeerFault if it was changed, or sealed with another key."""
        ...

    def convert(self, path: Path, number: int) -> bool:
        """Seal a file of plain samples; False if there is nothing to seal in it."""
        ...


class Rows:
    """Rows on their way into a block, as they are stored: no object for each."""

    def __init__(self) -> None:
        self._times, self._marks, self._values = array("q"), array("H"), array("f")
        self._labels: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._times)

    @property
    def held_bytes(self) -> int:
        return 10 * len(self._times) + 4 * len(self._values)

    def add(self, us: int, label: str, broken: bool, values: tuple[float, ...]) -> None:
        """Take a row; a label beyond the LABELS_MAX that a block can name is left out."""
        number = 0
        if label:
            number = self._labels.get(label, 0)
            if not number and len(self._labels) < LABELS_MAX:
                number = self._labels[label] = len(self._labels) + 1
        self._times.append(us)
        self._marks.append(number | (BROKEN if broken else 0))
        self._values.extend(values)

    def inside(self) -> bytes:
        """What is inside the block."""
        out = bytearray(struct.pack("<H", len(self._labels)))
        for label in self._labels:
            text = label.encode("utf-8", "replace")
            out += struct.pack("<H", len(text)) + text
        for column in (self._times, self._marks, self._values):
            if sys.byteorder == "big":
                column = array(column.typecode, column)
                column.byteswap()
            out += column.tobytes()
        return bytes(out)


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block's inside is, and how many rows it has."""

    offset: int
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a file: good blocks in order, and how much is not in any."""

    head: Head
    start: int  # of the first block
    blocks: tuple[Block, ...]
    end: int  # of the last good block
    damaged: int  # bytes between good blocks

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)


def pack_head(head: Head) -> bytes:
    """The beginning of a file."""
    text = encode(head)
    return MAGIC + _SIZES.pack(len(text), zlib.crc32(text)) + text


def pack_block(rows: int, inside: bytes) -> bytes:
    """A whole block."""
    crc = zlib.crc32(inside, zlib.crc32(_SIZES.pack(len(inside), rows)))
    return _BLOCK.pack(MARK, len(inside), rows, crc) + inside


def place_of(number: int, offset: int) -> bytes:
    """What a sealed block is bound to: its file's number and its place there."""
    return struct.pack("<QQ", number, offset)


def read_head(file: int) -> tuple[Head, int]:
    """The head of an open file, and where its blocks begin; raise PeerFault if it has none."""
    size = len(MAGIC) + _SIZES.size
    first = os.pread(file, size, 0)
    if len(first) != size or not first.startswith(MAGIC):
        raise PeerFault(Reason.MALFORMED, "it doesn't begin as a file of samples")
    length, crc = _SIZES.unpack_from(first, len(MAGIC))
    text = os.pread(file, length, size) if length <= HEAD_MAX else b""
    if len(text) != length or zlib.crc32(text) != crc:
        raise PeerFault(Reason.MALFORMED, "its head is damaged")
    try:
        return decode(Head, text), size + length
    except Unfit as error:
        raise PeerFault(Reason.MALFORMED, f"its head: {error}"[:300]) from None


def scan(file: int) -> Scan:
    """Check every block of an open file; PeerFault if it has no head. One block at a time is read.

    A good block behind a damaged one is found again by its mark.
    """
    head, start = read_head(file)
    size = min(os.fstat(file).st_size, FILE_MAX)
    at = end = start
    blocks: list[Block] = []
    damaged = searches = 0
    while at < size:
        block = _good(file, at, size)
        if block is not None:
            damaged += at - end
            blocks.append(block)
            at = end = block.offset + block.size
            continue
        searches += 1
        found = _search(file, at + 1, size) if searches <= _SEARCHES_MAX else None
        if found is None:
            break
        at = found
    return Scan(head, start, tuple(blocks), end, damaged)


def count_rows(file: int) -> int:
    """Rows up to the end of this file, with those of the files before, by the blocks' heads alone.

    Raises PeerFault as `read_head` does.
    """
    head, at = read_head(file)
    rows, size = head.before, os.fstat(file).st_size
    while at < size:
        found = os.pread(file, _BLOCK.size, at)
        if len(found) != _BLOCK.size:
            break
        mark, length, count, _ = _BLOCK.unpack(found)
        at += _BLOCK.size + length
        if mark != MARK or at > size:
            break
        rows += count
    return rows


def _good(file: int, at: int, size: int) -> Block | None:
    found = os.pread(file, _BLOCK.size, at)
    if len(found) != _BLOCK.size:
        return None
    mark, length, rows, crc = _BLOCK.unpack(found)
    begin = at + _BLOCK.size
    if mark != MARK or not length or not rows or length > BLOCK_MAX or begin + length > size:
        return None
    inside = os.pread(file, length, begin)
    if len(inside) != length or zlib.crc32(inside, zlib.crc32(found[4:12])) != crc:
        return None
    return Block(begin, length, rows)


def _search(file: int, at: int, size: int) -> int | None:
    """Where the next mark stands."""
    step = 256 * 1024
    while at < size:
        at_mark = os.pread(file, step + len(MARK) - 1, at).find(MARK)
        if at_mark >= 0:
            return at + at_mark
        at += step
    return None


@dataclass(frozen=True, slots=True)
class Inside:
    """Where in an opened block its columns begin."""

    labels: tuple[str, ...]
    times: int
    marks: int
    values: int


def parse_inside(data: bytes | bytearray, rows: int, width: int) -> Inside:
    """Find the columns of a block that has `rows` rows of `width` values; raise PeerFault."""
    at, labels = 2, []
    for _ in range(_u16(data, 0)):
        length = _u16(data, at)
        raw = data[at + 2 : at + 2 + length]
        at += 2 + length
        try:
            labels.append(raw.decode())
        except UnicodeDecodeError:
            raise PeerFault(Reason.MALFORMED, "a label is no text") from None
    times, marks = at, at + 8 * rows
    values = marks + 2 * rows
    if len(data) != values + 4 * rows * width:
        raise PeerFault(Reason.MALFORMED, "a block has another size than its rows")
    return Inside(tuple(labels), times, marks, values)


def _u16(data: bytes | bytearray, at: int) -> int:
    if at + 2 > len(data):
        raise PeerFault(Reason.MALFORMED, "a block ends too early")
    return data[at] | data[at + 1] << 8


def segments(folder: Path) -> list[tuple[int, str]]:
    """Numbers and names of a ring's files, in order; OSError if the folder can't be read."""
    found = []
    for path in folder.iterdir():
        name = path.name
        stem, dot, end = name.partition(".")
        if dot and end == "seg" and stem.isascii() and stem.isdigit() and len(stem) <= 12:
            found.append((int(stem), name))
    return sorted(found)
