"""What people and model files write, parsed to a typed value or refused with every fault named.

A `Typed` class states the form: unknown keys, text for numbers, NaN and what breaks a bound are
refused. Building one by its constructor checks nothing; `parse` and `decode` do.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, dataclass_transform, get_args, get_origin

import msgspec

_PLACE: Final = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"[^.\[\]]+")


@dataclass_transform(frozen_default=True)
class _Frozen(msgspec.StructMeta):
    """Says to type checkers what every `Typed` is."""


class Typed(msgspec.Struct, metaclass=_Frozen, frozen=True, forbid_unknown_fields=True):
    """Base of such classes. `__post_init__` may raise ValueError for values that don't fit."""


T = TypeVar("T", bound=Typed)


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is wrong with a tree: where, and what was there."""

    at: tuple[str, ...]
    kind: Literal["missing", "unknown", "value"]
    says: str
    given: object = None


class Unfit(ValueError):
    """The tree has not the form that was asked for."""

    def __init__(self, wrongs: list[Wrong]) -> None:
        super().__init__("; ".join(f"{'.'.join(w.at)}: {w.says}" for w in wrongs))
        self.wrongs = wrongs


def parse(form: type[T], tree: object) -> T:
    """A value of `form` from dicts, lists and scalars; raise Unfit with all that is wrong."""
    wrongs = list(_wrongs(form, tree, ()))
    if wrongs:
        raise Unfit(wrongs)
    try:
        value: T = _convert(tree, form)
    except msgspec.ValidationError as error:
        raise Unfit([_wrong(error, (), tree)]) from None
    return value


def decode(form: type[T], data: bytes) -> T:
    """The same from JSON; the caller has bounded its size."""
    try:
        tree = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise Unfit([Wrong((), "value", f"not JSON: {error}")]) from None
    return parse(form, tree)


def encode(value: Typed) -> bytes:
    """JSON with a line for each value, that `decode` reads."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def tree_of(value: Typed) -> dict[str, Any]:
    """Dicts, lists and scalars, as JSON knows them."""
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return tree


def _wrongs(form: type[Typed], tree: object, at: tuple[str, ...]) -> Iterator[Wrong]:
    if not isinstance(tree, dict):
        yield Wrong(at, "value", "a table is wanted", tree)
        return
    fields = {field.name: field for field in msgspec.structs.fields(form)}
    for key in tree:
        if key not in fields:
            yield Wrong((*at, str(key)), "unknown", "no such key")
    for name, field in fields.items():
        here = (*at, name)
        if name not in tree:
            if field.required:
                yield Wrong(here, "missing", "is missing")
        elif (table := _table(field.type, tree[name])) is not None:
            yield from _wrongs(table, tree[name], here)
        elif endless := list(_endless(tree[name], here)):
            yield from endless
        else:
            try:
                _convert(tree[name], field.type)
            except msgspec.ValidationError as error:
                yield _wrong(error, here, tree[name])


def _table(form: Any, given: object) -> type[Typed] | None:
    """The form of a table that is wanted here, or that may be left out and is given."""
    if get_origin(form) is UnionType and given is not None:
        forms = [one for one in get_args(form) if one is not NoneType]
        form = forms[0] if len(forms) == 1 else None
    return form if isinstance(form, type) and issubclass(form, Typed) else None


def _convert(tree: object, form: Any) -> Any:
    return msgspec.convert(tree, form, dec_hook=_hook)


def _hook(form: type, value: object) -> object:
    if form is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected a path, got `{type(value).__name__}`")


def _endless(value: object, at: tuple[str, ...]) -> Iterator[Wrong]:
    """The floats that are NaN or infinite."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _endless(item, (*at, str(i)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Wrong(at, "value", "a finite number is wanted", value)


def _wrong(error: msgspec.ValidationError, at: tuple[str, ...], given: object) -> Wrong:
    found = _PLACE.fullmatch(str(error))
    says, place = found.groups() if found else (str(error), None)
    kind: Literal["unknown", "value"] = "unknown" if "unknown field" in says else "value"
    return Wrong((*at, *_STEP.findall(place or "")), kind, says, given)
