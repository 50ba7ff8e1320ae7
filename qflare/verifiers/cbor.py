"""The CBOR (RFC 8949) that an attestation document is in: codec.py's, with maps.

A CBOR library on every device would be one more compiled dependency, and takes over-long numbers,
repeated keys and trailing bytes, which then have to be looked for again. This reads what Nitro
writes and refuses the rest: whole numbers, byte and text strings, arrays, maps and null, each in
its shortest form, none nested deeper than DEPTH_MAX.
"""

from typing import NoReturn, TypeAlias

from qflare.faults import PeerFault, Reason

Value: TypeAlias = "int | bytes | str | list[Value] | dict[int | str, Value] | None"

DEPTH_MAX = 2  # below the document's own map
_NULL = 0xF6


def read(data: bytes) -> Value:
    """The value that `data` is; raise PeerFault(MALFORMED) for anything else."""
    value, end = _read(data, 0, 0)
    if end != len(data):
        _refuse("bytes after the value")
    return value


def _refuse(detail: str) -> NoReturn:
    raise PeerFault(Reason.MALFORMED, f"CBOR: {detail}")


def _read(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if at >= len(data):
        _refuse("truncated")
    if data[at] == _NULL:
        return None, at + 1
    if depth > DEPTH_MAX:
        _refuse("nested too deeply")
    major = data[at] >> 5
    n, at = _read_head(data, at)
    match major:
        case 0:
            return n, at
        case 2 | 3:
            if n > len(data) - at:
                _refuse("a string runs past the end")
            raw = data[at : at + n]
            return (raw if major == 2 else _text(raw)), at + n
        case 4:
            items: list[Value] = []
            for _ in range(n):  # ends at the end of the data, whatever n is
                item, at = _read(data, at, depth + 1)
                items.append(item)
            return items, at
        case 5:
            entries: dict[int | str, Value] = {}
            for _ in range(n):
                key, at = _read(data, at, depth + 1)
                if not isinstance(key, int | str) or key in entries:
                    _refuse("a map's key is of another kind, or there twice")
                entries[key], at = _read(data, at, depth + 1)
            return entries, at
    _refuse(f"major type {major} isn't used")


def _read_head(data: bytes, at: int) -> tuple[int, int]:
    short = data[at] & 31
    at += 1
    if short < 24:
        return short, at
    if short > 27:
        _refuse("indefinite or reserved length")
    width = 1 << (short - 24)
    if len(data) - at < width:
        _refuse("truncated")
    n = int.from_bytes(data[at : at + width], "big")
    if n < (24 if width == 1 else 1 << (width * 4)):
        _refuse("a number not in its shortest form")
    return n, at + width


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        _refuse("text that is not UTF-8")
