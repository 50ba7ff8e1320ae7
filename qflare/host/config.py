"""Configuration: a TOML file, overridden by the environment, checked before anything starts.

A value comes from the model's default, then the file, then QFLARE_<ROOM>__<SECTION>__<KEY>. What
is wrong is said with the file, the key and what to do; the process then exits with 78.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from qflare.faults import LocalFault
from qflare.host.files import read_bounded
from qflare.host.redact import clean_text, looks_secret
from qflare.host.typed import Typed, Unfit, Wrong, parse

CONFIG_CEILING = 256 * 1024  # bytes of a configuration file

_Path = tuple[str, ...]
_Tree = dict[str, Any]


class ConfigFault(LocalFault):
    """The configuration is wrong; the message names file, key and remedy."""

    exit_code = 78  # EX_CONFIG, which the units know not to restart


def read_file(path: Path, ceiling: int) -> bytes:
    """The content of a file that a configuration or a person names; raise ConfigFault."""
    try:
        return read_bounded(path, ceiling)
    except OSError as error:
        raise ConfigFault(f"{path}: {error.strerror}; correct its name or mode") from None
    except LocalFault as fault:
        raise ConfigFault(str(fault)) from None


class Settings(Typed):
    """Base of every section."""


class Part(Settings):
    """Base of a section, or a file, of which only some keys are of interest here.

    The others are left to whoever they are for.
    """


class Source(StrEnum):
    """Where a value came from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"


M = TypeVar("M", bound=Settings)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A checked configuration, and where each given value came from."""

    value: M
    sources: Mapping[_Path, Source]


def load(
    model: type[M], room: str, path: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Loaded[M]:
    """Read and check the configuration of `room` ("edge", "coordinator", "enclave", …).

    Raises ConfigFault for a file that is missing or unreadable and for every kind of wrong value.
    """
    tree = _known(model, _read(path) if path else {})
    sources = dict.fromkeys((key for key, _ in _leaves(tree)), Source.FILE)
    prefix = f"QFLARE_{room.upper()}__"
    texts: dict[_Path, str] = {}
    for name in sorted(environ):
        if name.startswith(prefix):
            key = tuple(name.removeprefix(prefix).lower().split("__"))
            if not _answers_for(model, key):
                continue
            texts[key] = environ[name]
            _put(tree, key, _toml_value(environ[name]), name)
            for old in [k for k in sources if k[: len(key)] == key]:
                del sources[old]
            sources[key] = Source.ENVIRONMENT
    try:
        return Loaded(parse(model, tree), sources)
    except Unfit as first:
        # `1234` may be meant as text: what isn't right as a TOML value gets a second chance.
        again = [k for k in texts if any(wrong.at[: len(k)] == k for wrong in first.wrongs)]
        for key in again:
            _put(tree, key, texts[key], "")
        try:
            return Loaded(parse(model, tree), sources)
        except Unfit as error:
            raise ConfigFault(_explain(error.wrongs, prefix, path, sources)) from None


def _read(path: Path) -> _Tree:
    try:
        return tomllib.loads(read_bounded(path, CONFIG_CEILING).decode())
    except FileNotFoundError:
        raise ConfigFault(f"{path}: no such file; create it or name another one") from None
    except OSError as error:
        raise ConfigFault(f"{path}: {error.strerror}; check its owner and mode") from None
    except LocalFault as fault:
        raise ConfigFault(str(fault)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigFault(f"{path}: not TOML: {error}; correct it there") from None


def _known(model: type[Typed], tree: _Tree) -> _Tree:
    """The tree without what a `Part` doesn't answer for."""
    fields = {field.name: field.type for field in msgspec.structs.fields(model)}
    found = {}
    for key, value in tree.items():
        form = fields.get(key)
        if isinstance(value, dict) and isinstance(form, type) and issubclass(form, Typed):
            found[key] = _known(form, value)
        elif key in fields or not issubclass(model, Part):
            found[key] = value
    return found


def _answers_for(model: type[Typed], key: _Path) -> bool:
    """Is this key to be checked here, whether it is right or wrong?"""
    fields = {field.name: field.type for field in msgspec.structs.fields(model)}
    if key[0] not in fields:
        return not issubclass(model, Part)
    form = fields[key[0]]
    inner = len(key) > 1 and isinstance(form, type) and issubclass(form, Typed)
    return not inner or _answers_for(form, key[1:])


def _toml_value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def _put(tree: _Tree, key: _Path, value: object, name: str) -> None:
    for part in key[:-1]:
        branch = tree.setdefault(part, {})
        if not isinstance(branch, dict):
            raise ConfigFault(f"{name}: {part} is a value and has no keys below it; unset it")
        tree = branch
    tree[key[-1]] = value


def _leaves(tree: object, at: _Path = ()) -> Iterator[tuple[_Path, object]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*at, str(key)))
    elif at:
        yield at, tree


def _explain(
    wrongs: Sequence[Wrong], prefix: str, path: Path | None, sources: Mapping[_Path, Source]
) -> str:
    lines = []
    for wrong in wrongs:
        variable = prefix + "__".join(wrong.at).upper()
        source = next((s for k, s in sources.items() if k == wrong.at[: len(k)]), Source.DEFAULT)
        where = variable if source is Source.ENVIRONMENT else str(path or "configuration")
        key = ".".join(wrong.at) or "(top level)"
        match wrong.kind:
            case "missing":
                what = f"is missing; set it there or in {variable}"
            case "unknown":
                what = "is no setting that we know; correct its name or remove it"
            case "value":
                secret = any(map(looks_secret, wrong.at))
                given = "" if secret else f", not {_given(wrong.given)}"
                what = f"{wrong.says}{given}; change it there"
        lines.append(f"{where}: {key}: {what}")
    return "\n".join(lines)


def _given(value: object) -> str:
    return clean_text(repr(value))[:80] if not isinstance(value, dict) else "a table"
