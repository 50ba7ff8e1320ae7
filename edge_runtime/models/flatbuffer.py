"""Read tables of a flatbuffer that may be hostile.

Every offset is checked against the file before it is followed, and every table and list takes from
a budget: a small file can name one list a million times, and would be a large tree.
Format: https://flatbuffers.dev/internals/
"""

import struct
from dataclasses import dataclass
from typing import Final

from qflare.faults import PeerFault, Reason

TABLES_MAX: Final = 500_000  # tables and values of lists, together: some seconds of work
TEXT_MAX: Final = 256  # bytes of a name that are kept


def _damaged(what: str) -> PeerFault:
    return PeerFault(Reason.MALFORMED, f"damaged TFLite model: {what}")


class Bytes:
    """The file, and how much of the budget is left."""

    def __init__(self, view: memoryview, budget: int = TABLES_MAX) -> None:
        self.view = view
        self._left = budget

    def spend(self, count: int) -> None:
        """Take `count` from the budget; PeerFault(TOO_LARGE) if it is used up."""
        self._left -= count
        if self._left < 0:
            raise PeerFault(Reason.TOO_LARGE, "a TFLite model of more than half a million parts")

    def unpack(self, form: struct.Struct, at: int) -> int:
        if not 0 <= at <= len(self.view) - form.size:
            raise _damaged(f"position {at} is outside the file")
        return int(form.unpack_from(self.view, at)[0])

    def root(self) -> "Table":
        return Table(self, self.unpack(_U32, 0))


_U8, _I8 = struct.Struct("<B"), struct.Struct("<b")
_U16, _I32 = struct.Struct("<H"), struct.Struct("<i")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_FORMS: Final = {"u8": _U8, "i8": _I8, "i32": _I32, "u32": _U32, "u64": _U64}


@dataclass(frozen=True, slots=True)
class Span:
    """Where a vector's values are in the file."""

    start: int
    count: int


class Table:
    """One table: fields by their number in the schema. All methods raise PeerFault only."""

    __slots__ = ("_at", "_file", "_length", "_vtable")

    def __init__(self, file: Bytes, at: int) -> None:
        file.spend(1)
        self._file, self._at = file, at
        self._vtable = at - file.unpack(_I32, at)
        self._length = file.unpack(_U16, self._vtable)

    def _field(self, number: int) -> int:
        """Where a field's value is; 0 if it is left out."""
        entry = 4 + 2 * number
        if entry + 2 > self._length:
            return 0
        offset = self._file.unpack(_U16, self._vtable + entry)
        return self._at + offset if offset else 0

    def has(self, number: int) -> bool:
        return self._field(number) != 0

    def number(self, number: int, form: str = "u32", default: int = 0) -> int:
        at = self._field(number)
        return self._file.unpack(_FORMS[form], at) if at else default

    def vector(self, number: int, size: int) -> Span:
        """Where a list of values of `size` bytes each is."""
        at = self._field(number)
        if not at:
            return Span(0, 0)
        start = at + self._file.unpack(_U32, at)
        count = self._file.unpack(_U32, start)
        if start + 4 + size * count > len(self._file.view):
            raise _damaged("a list is longer than the file")
        return Span(start + 4, count)

    def text(self, number: int) -> str:
        """A string, cut at TEXT_MAX bytes; what isn't UTF-8 or printable is replaced."""
        span = self.vector(number, 1)
        self._file.spend(1 + min(span.count, TEXT_MAX) // 32)
        raw = bytes(self._file.view[span.start : span.start + min(span.count, TEXT_MAX)])
        found = raw.decode(errors="replace")
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in found)

    def ints(self, number: int, at_most: int | None = None) -> tuple[int, ...]:
        """A list of int32."""
        span = self.vector(number, 4)
        if at_most is not None and span.count > at_most:
            raise _damaged(f"a list of {span.count} values, at most {at_most}")
        self._file.spend(span.count)
        return struct.unpack_from(f"<{span.count}i", self._file.view, span.start)

    def tables(self, number: int) -> list["Table"]:
        """A list of tables."""
        span = self.vector(number, 4)
        self._file.spend(span.count)
        offsets = struct.unpack_from(f"<{span.count}I", self._file.view, span.start)
        return [Table(self._file, span.start + 4 * i + o) for i, o in enumerate(offsets)]

    def table(self, number: int) -> "Table | None":
        at = self._field(number)
        return Table(self._file, at + self._file.unpack(_U32, at)) if at else None

    def inline(self) -> dict[int, bytes]:
        """Each field's bytes inside the table, 1, 2, 4 or 8: enough to copy one of mere numbers.

        A field's width isn't in the file. It is taken as wide as its place allows, which adds
        nothing but the zeros between fields.
        """
        fields = (self._length - 4) // 2
        self._file.spend(max(fields, 0))
        places = {n: at for n in range(fields) if (at := self._field(n))}
        end = self._at + self._file.unpack(_U16, self._vtable + 2)
        found = {}
        for number, at in places.items():
            room = min((other for other in (*places.values(), end) if other > at), default=at) - at
            width = next((w for w in (8, 4, 2, 1) if w <= room and at % w == 0), 0)
            if not width or at + width > len(self._file.view):
                raise _damaged("a field is outside its table")
            found[number] = bytes(self._file.view[at : at + width])
        return found
