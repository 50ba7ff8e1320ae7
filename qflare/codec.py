"""Deterministic CBOR (RFC 8949 section 4.2), the small part that QFLARE speaks.

Integers of 64 bits, byte and text strings, arrays, booleans, null and 64-bit floats; no maps, no
tags, no indefinite lengths. Every value has one spelling: shortest heads, floats always in 64
bits, so `decode(b)` raises or `encode(decode(b)) == b`. The decoder is written for hostile bytes:
it never allocates more than its input holds and never nests deeper than DEPTH_MAX.
"""

import math
import struct
from collections.abc import Sequence
from typing import TypeAlias

from qflare.faults import LocalFault, PeerFault, Reason

Value: TypeAlias = "int | float | bytes | str | bool | Sequence[Value] | None"

DEPTH_MAX = 12
_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _SIMPLE = 0, 1, 2, 3, 4, 7
_FALSE, _TRUE, _NULL, _FLOAT64 = 0xF4, 0xF5, 0xF6, 0xFB


def encode(value: Value) -> bytes:
    """Return the one spelling of `value`; raise LocalFault for what has none."""
    out = bytearray()
    _put(out, value, 0)
    return bytes(out)


def decode(data: bytes, ceiling: int) -> Value:
    """Return the value that `data` spells (arrays as lists).

    Raises PeerFault: TOO_LARGE above `ceiling` bytes, MALFORMED for anything but one value in its
    one spelling with nothing after it.
    """
    if len(data) > ceiling:
        raise PeerFault(Reason.TOO_LARGE, f"{len(data)} bytes, at most {ceiling}")
    value, end = _get(data, 0, 0)
    if end != len(data):
        raise PeerFault(Reason.MALFORMED, "bytes after the value")
    return value


def _put(out: bytearray, value: Value, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise LocalFault("value nested too deeply to encode")
    match value:
        case bool():
            out.append(_TRUE if value else _FALSE)
        case None:
            out.append(_NULL)
        case int():
            if not -(2**64) <= value < 2**64:
                raise LocalFault("integer outside 64 bits")
            _head(out, _NINT if value < 0 else _UINT, ~value if value < 0 else value)
        case float():
            if not math.isfinite(value):
                raise LocalFault("only finite numbers can be encoded")
            out += struct.pack(">Bd", _FLOAT64, value)
        case str():
            raw = value.encode()
            _head(out, _TEXT, len(raw))
            out += raw
        case bytes() | bytearray() | memoryview():
            _head(out, _BYTES, len(value))
            out += value
        case list() | tuple():
            _head(out, _ARRAY, len(value))
            for item in value:
                _put(out, item, depth + 1)
        case _:
            raise LocalFault(f"a {type(value).__name__} cannot be encoded")


def _head(out: bytearray, major: int, n: int) -> None:
    if n < 24:
        out.append(major << 5 | n)
    elif n < 2**8:
        out += struct.pack(">BB", major << 5 | 24, n)
    elif n < 2**16:
        out += struct.pack(">BH", major << 5 | 25, n)
    elif n < 2**32:
        out += struct.pack(">BI", major << 5 | 26, n)
    else:
        out += struct.pack(">BQ", major << 5 | 27, n)


def _get(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if at >= len(data):
        raise PeerFault(Reason.MALFORMED, "truncated")
    if depth > DEPTH_MAX:
        raise PeerFault(Reason.MALFORMED, "nested too deeply")
    first = data[at]
    major, short = first >> 5, first & 31
    if major == _SIMPLE:
        return _get_simple(data, at, first)
    n, at = _get_head(data, at + 1, short)
    match major:
        case 0:
            return n, at
        case 1:
            return ~n, at
        case 2 | 3:
            if n > len(data) - at:
                raise PeerFault(Reason.MALFORMED, "string runs past the end")
            raw = data[at : at + n]
            return (raw if major == _BYTES else _text(raw)), at + n
        case 4:
            if n > len(data) - at:  # an item has at least one byte
                raise PeerFault(Reason.MALFORMED, "array runs past the end")
            items: list[Value] = []
            for _ in range(n):
                item, at = _get(data, at, depth + 1)
                items.append(item)
            return items, at
    raise PeerFault(Reason.MALFORMED, "maps and tags are not used")


def _get_simple(data: bytes, at: int, first: int) -> tuple[Value, int]:
    match first:
        case 0xF4 | 0xF5:
            return first == _TRUE, at + 1
        case 0xF6:
            return None, at + 1
        case 0xFB if len(data) - at >= 9:
            (number,) = struct.unpack_from(">d", data, at + 1)
            if not math.isfinite(number):
                raise PeerFault(Reason.NOT_FINITE, "a number that is not finite")
            return float(number), at + 9
    raise PeerFault(Reason.MALFORMED, "unknown or truncated simple value")


def _get_head(data: bytes, at: int, short: int) -> tuple[int, int]:
    if short < 24:
        return short, at
    if short > 27:
        raise PeerFault(Reason.MALFORMED, "indefinite or reserved length")
    width = 1 << (short - 24)
    if len(data) - at < width:
        raise PeerFault(Reason.MALFORMED, "truncated")
    n = int.from_bytes(data[at : at + width], "big")
    if n < (24 if width == 1 else 1 << (width * 4)):
        raise PeerFault(Reason.MALFORMED, "a number not in its shortest form")
    return n, at + width


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise PeerFault(Reason.MALFORMED, "text that is not UTF-8") from None
