"""Frozen dataclasses to canonical CBOR and back, by their field types.

A record is spelled as the array of its fields in order; a message (see messages.py) puts its tag
in front. There are no optional or unknown fields on the wire: an array of another length is
refused. Validation of values belongs to each class's `__post_init__`, which raises PeerFault.
"""

import types
import typing
from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from qflare import codec
from qflare.codec import Value
from qflare.faults import PeerFault, Reason
from qflare.names import DeviceId, Digest, FleetId

_Get = Callable[[Value], Any]


class Record:
    """Base of frozen dataclasses that have one spelling in CBOR."""

    CEILING: ClassVar[int]  # bytes; parsing more is refused unread

    def to_value(self) -> list[Value]:
        """The fields as CBOR values, in order."""
        return [_value(getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Build the record from a decoded array; raise PeerFault for anything else."""
        getters = _getters(cls)  # type: ignore[arg-type]  # a class is hashable
        if not isinstance(value, list):
            raise PeerFault(Reason.MALFORMED, f"{cls.__name__}: want an array")
        if len(value) != len(getters):
            reason = Reason.UNKNOWN_FIELD if len(value) > len(getters) else Reason.MALFORMED
            raise PeerFault(reason, f"{cls.__name__}: {len(value)} fields, want {len(getters)}")
        return cls(*(get(item) for get, item in zip(getters, value, strict=True)))

    def to_bytes(self) -> bytes:
        """The one spelling of this record."""
        return codec.encode(self.to_value())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Strict inverse of `to_bytes`; raises PeerFault and nothing else."""
        return cls.from_value(codec.decode(data, cls.CEILING))


def _value(item: object) -> Value:
    match item:
        case Record():
            return item.to_value()
        case Digest():
            return item.raw
        case StrEnum():
            return item.value
        case tuple():
            return [_value(part) for part in item]
        case bool() | int() | float() | str() | bytes() | None:
            return item
    raise TypeError(f"{type(item).__name__} has no spelling")


@cache
def _getters(cls: type[Record]) -> tuple[_Get, ...]:
    hints = get_type_hints(cls)
    return tuple(_getter(hints[f.name], f.name) for f in fields(cls))  # type: ignore[arg-type]


def _getter(hint: Any, name: str) -> _Get:
    if get_origin(hint) is tuple:
        return _tuple_getter(hint, name)
    if get_origin(hint) in (typing.Union, types.UnionType):  # `X | None` only
        (inner,) = (_getter(arg, name) for arg in get_args(hint) if arg is not type(None))
        return lambda value: None if value is None else inner(value)
    hint = getattr(hint, "__supertype__", hint)
    if isinstance(hint, type):
        if issubclass(hint, Record):
            return hint.from_value
        if hint is Digest:
            return lambda value: Digest(_exact(value, bytes, name))
        if issubclass(hint, DeviceId | FleetId):
            parse = hint.parse
            return lambda value: parse(_exact(value, str, name))
        if issubclass(hint, StrEnum):
            return lambda value: _enum(hint, _exact(value, str, name), name)
        if hint in (bool, int, float, str, bytes):
            return lambda value: _exact(value, hint, name)
    raise TypeError(f"field {name}: {hint!r} has no spelling")


def _tuple_getter(hint: Any, name: str) -> _Get:
    args = get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:
        one = _getter(args[0], name)
        return lambda value: tuple(one(item) for item in _exact(value, list, name))
    getters = [_getter(arg, name) for arg in args]

    def get(value: Value) -> tuple[Any, ...]:
        items = _exact(value, list, name)
        if len(items) != len(getters):
            raise PeerFault(Reason.MALFORMED, f"{name}: want {len(getters)} items")
        return tuple(g(item) for g, item in zip(getters, items, strict=True))

    return get


def _exact(value: Value, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise PeerFault(Reason.MALFORMED, f"{name}: want {kind.__name__}")
    return value


def _enum(kind: type[StrEnum], text: str, name: str) -> StrEnum:
    try:
        return kind(text)
    except ValueError:
        raise PeerFault(Reason.BAD_VALUE, f"{name}: {text[:40]!r} is not known") from None


def check(condition: bool, detail: str, reason: Reason = Reason.BAD_VALUE) -> None:
    """Raise PeerFault(reason) unless `condition` holds."""
    if not condition:
        raise PeerFault(reason, detail)
