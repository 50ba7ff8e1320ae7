"""A configuration as people read it: TOML that can be pasted back, or JSON. Pure."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import msgspec

from qflare.host.config import Loaded, Settings, Source
from qflare.host.redact import MASK, looks_secret
from qflare.host.typed import Typed

_WIDTH: Final = 79
_ALIGNED_MAX: Final = 40  # columns in front of a value's source
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Line:
    """One value as JSON knows it, secrets masked; None if it isn't set."""

    at: tuple[str, ...]
    value: Any
    source: Source

    @property
    def key(self) -> str:
        return ".".join(self.at)


def describe(loaded: Loaded[Any]) -> list[Line]:
    """Every value of the configuration with its source."""
    return list(_lines(loaded.value, (), loaded.sources))


def as_json(loaded: Loaded[Any]) -> dict[str, dict[str, Any]]:
    """By key, its value and where that came from."""
    return {line.key: {"value": line.value, "source": line.source} for line in describe(loaded)}


def as_toml(loaded: Loaded[Any]) -> list[str]:
    """Lines of a file that says the same; behind each value where it came from.

    What isn't set, and what is secret, is in comments, as are the words on each section (which a
    Python without docstrings hasn't got).
    """
    return list(_section(loaded.value, (), describe(loaded)))


def _lines(
    section: Typed, at: tuple[str, ...], sources: Mapping[tuple[str, ...], Source]
) -> Iterator[Line]:
    for name, value in msgspec.structs.asdict(section).items():
        here = (*at, name)
        if isinstance(value, Settings):
            yield from _lines(value, here, sources)
            continue
        source = next(
            (
                s
                for key, s in sources.items()
                if here == key[: len(here)] or key == here[: len(key)]
            ),
            Source.DEFAULT,
        )
        yield Line(here, _plain(value, name), source)


def _plain(value: object, name: str) -> Any:
    """What JSON can hold. Where a key is kept is no secret; what is in it is."""
    match value:
        case None | Path():
            return None if value is None else str(value)
        case Typed():
            fields = msgspec.structs.asdict(value)
            return {key: _plain(v, key) for key, v in fields.items() if v is not None}
        case Mapping():
            return {str(key): _plain(v, str(key)) for key, v in value.items()}
        case bytes():
            return MASK
    if looks_secret(name):
        return MASK
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, name) for item in value]
    return msgspec.to_builtins(value)


def _section(section: Typed, at: tuple[str, ...], lines: Sequence[Line]) -> Iterator[str]:
    if at:
        yield ""
        yield f"[{'.'.join(at)}]"
    for paragraph in (inspect.getdoc(type(section)) or "").split("\n\n"):
        yield from (f"# {line}" for line in wrap(paragraph, _WIDTH - 2, break_on_hyphens=False))
    mine = [line for line in lines if line.at[:-1] == at]
    shown = {line.at: _assignment(line) for line in mine}
    width = min(_ALIGNED_MAX, max(map(len, shown.values()), default=0))
    for line in mine:
        text = shown[line.at]
        if "\n" in text:
            yield f"# from {line.source}:"
            yield from text.split("\n")
        else:
            yield f"{text:{width}}  # {line.source}"
    for name, value in msgspec.structs.asdict(section).items():
        if isinstance(value, Settings):
            yield from _section(value, (*at, name), lines)


def _assignment(line: Line) -> str:
    name = line.at[-1]
    if line.value is None:
        return f"# {name} ="
    text = f"{name} = {_toml(line.value)}"
    if _masked(line.value):
        return f"# {text}"
    if isinstance(line.value, list) and len(text) > _WIDTH - 12:
        items = "".join(f"  {_toml(item)},\n" for item in line.value)
        return f"{name} = [\n{items}]"
    return text


def _masked(value: Any) -> bool:
    """Is there anything in it that isn't what the daemon uses?"""
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        return any(map(_masked, inside))
    return bool(value == MASK)


def _toml(value: Any) -> str:
    """TOML 1.0; its basic strings are JSON's, but for DEL, which has to be escaped."""
    match value:
        case dict():
            pairs = (f"{_name(key)} = {_toml(v)}" for key, v in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _name(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml(key)
