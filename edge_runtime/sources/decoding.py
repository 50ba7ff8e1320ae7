"""One message into fields: text with separators, a JSON object, or a C structure. Pure.

A message is untrusted: what it can't be is a PeerFault, and nothing else.
"""

import csv
import re
import struct
from typing import Final, Protocol

import msgspec

from edge_runtime.sources.record import Fields
from edge_runtime.sources.settings import DataSection, FormatSection
from qflare.faults import LocalFault, PeerFault, Reason

MESSAGE_MAX: Final = 64 * 1024
UNWANTED: Final = "-"
# What `struct` knows with one value for each letter; "s" and "p" are text, which nobody sends.
_LAYOUT: Final = re.compile(r"[<>=!]?([0-9]*[xbBhHiIlLqQefd?] *)+")


class Decoder(Protocol):
    """Raises PeerFault for what is no such message."""

    def decode(self, message: bytes) -> Fields: ...


class Separated:
    """Fields of text, quoted as in CSV if need be."""

    def __init__(self, settings: FormatSection) -> None:
        self._fields, self._separator = settings.fields, settings.separator

    def decode(self, message: bytes) -> Fields:
        try:
            line = message.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise PeerFault(Reason.MALFORMED, "it is not UTF-8") from None
        if '"' in line:
            try:
                parts = next(csv.reader([line], delimiter=self._separator, strict=True), [])
            except csv.Error as error:
                raise PeerFault(Reason.MALFORMED, f"it is no CSV: {error}") from None
        else:
            parts = line.split(self._separator)
        if len(parts) != len(self._fields):
            raise PeerFault(
                Reason.MALFORMED, f"it has {len(parts)} fields, {len(self._fields)} are wanted"
            )
        return dict(zip(self._fields, parts, strict=True))


class Json:
    """An object; only the fields that are wanted are looked at, by their path."""

    def __init__(self, wanted: tuple[str, ...]) -> None:
        self._paths = {name: name.split(".") for name in wanted}

    def decode(self, message: bytes) -> Fields:
        try:
            tree = msgspec.json.decode(message)
        except (ValueError, RecursionError):
            raise PeerFault(Reason.MALFORMED, "it is not JSON") from None
        if not isinstance(tree, dict):
            raise PeerFault(Reason.MALFORMED, "it is no JSON object")
        found: dict[str, object] = {}
        for name, path in self._paths.items():
            value: object = tree.get(name, tree)
            if value is tree:
                for step in path:
                    value = _inside(value, step)
            if value is None or isinstance(value, str | int | float):
                found[name] = value
        return found


def _inside(tree: object, step: str) -> object:
    """One step of a path; what isn't there is itself something that nobody wants."""
    if isinstance(tree, dict):
        return tree.get(step, _NOTHING)
    if isinstance(tree, list) and step.isascii() and step.isdigit() and len(step) < 6:
        return tree[int(step)] if int(step) < len(tree) else _NOTHING
    return _NOTHING


_NOTHING: Final = object()


class Structure:
    """A C structure, whose places have names."""

    def __init__(self, settings: FormatSection) -> None:
        """LocalFault for a layout that isn't one, or has other places than there are names."""
        if not _LAYOUT.fullmatch(settings.layout):
            raise LocalFault(
                f"data.format.layout: {settings.layout!r} is none; write letters of Python's "
                'struct for numbers, such as "<Ihhh"'
            )
        try:
            self._struct = struct.Struct(settings.layout)
        except (struct.error, OverflowError) as error:
            raise LocalFault(f"data.format.layout: {error}; correct it") from None
        if not 0 < self.size <= MESSAGE_MAX:
            raise LocalFault(f"data.format.layout: {self.size} bytes; want 1 to {MESSAGE_MAX}")
        places = len(self._struct.unpack(bytes(self.size)))
        if places != len(settings.fields):
            raise LocalFault(
                f"data.format.layout has {places} values and data.format.fields names "
                f'{len(settings.fields)}; name each ("-" for one that nobody wants)'
            )
        self._fields = settings.fields

    @property
    def size(self) -> int:
        """Bytes of a message."""
        return self._struct.size

    def decode(self, message: bytes) -> Fields:
        if len(message) != self.size:
            raise PeerFault(
                Reason.MALFORMED, f"it has {len(message)} bytes, the layout {self.size}"
            )
        return dict(zip(self._fields, self._struct.unpack(message), strict=True))


def decoder(settings: DataSection) -> Decoder:
    """The decoder that a configuration asks for; LocalFault if it can't be."""
    match settings.format.encoding:
        case "csv":
            return Separated(settings.format)
        case "struct":
            return Structure(settings.format)
    wanted = [c.source for c in settings.channels]
    wanted += settings.label.fields if settings.label.origin == "field" else ()
    wanted += [settings.time.field] if settings.time.field else []
    return Json(tuple(dict.fromkeys(wanted)))
