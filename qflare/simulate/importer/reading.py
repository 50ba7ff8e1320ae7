"""Rows of CSV files, one at a time; whatever is wrong is said with its file, line and column."""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault
from qflare.simulate.importer.plan import CHANNELS_MAX, EXAMPLE_MAX, NAME_MAX, UNITS, Plan

LINE_MAX: Final = 1024 * 1024
_DELIMITERS: Final = ",;\t"
Progress = Callable[[Path, int], None]  # told of the file, and of the bytes read of it


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `label` and `values` are None where the file has nothing, `time` (s) in no file."""

    device: str
    time: float | None
    label: str | None
    values: list[float] | None


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row things are."""

    device: int | None
    label: int | None
    time: int | None
    channels: tuple[int, ...]
    names: tuple[str, ...]  # of the channels
    count: int


def find_columns(plan: Plan, path: Path, header: Sequence[str]) -> Columns:
    """Match the plan against a file's first line; LocalFault names what isn't there."""
    names = [name.strip() for name in header]

    def at(option: str, name: str) -> int:
        if names.count(name) != 1:
            problem = "has no column" if name not in names else "has more than one column"
            there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise LocalFault(f"{path}, line 1: {problem} {name!r} ({option}); there are: {there}")
        return names.index(name)

    device, label, time = (
        None if name is None else at(f"--{role}", name)
        for role, name in (("device", plan.device), ("label", plan.label), ("time", plan.time))
    )
    if plan.channels:
        chosen = [at("--channels", name) for name in plan.channels]
    else:
        chosen = [i for i in range(len(names)) if i not in (device, label, time)]
    found = tuple(names[i] for i in chosen)
    if not 1 <= len(found) <= CHANNELS_MAX or len(found) * plan.window > EXAMPLE_MAX:
        raise LocalFault(
            f"{path}: {len(found)} channels in a window of {plan.window} rows; want 1 to "
            f"{CHANNELS_MAX:,}, and at most {EXAMPLE_MAX:,} values a window (--channels, --window)"
        )
    if len(set(found)) != len(found) or not all(1 <= len(name) <= NAME_MAX for name in found):
        raise LocalFault(f"{path}, line 1: channels want different names, 1 to {NAME_MAX} long")
    if plan.units and len(plan.units) != len(found):
        raise LocalFault(f"--units: {len(plan.units)} for {len(found)} channels of {path}")
    return Columns(device, label, time, tuple(chosen), found, len(names))


def read_rows(plan: Plan, path: Path, known: Columns | None, told: Progress) -> Iterator[Row]:
    """Yield the rows of one file; LocalFault for the first that is wrong.

    `known` are the columns of the files before: the channels must be the same.
    """
    try:
        with path.open("rb") as file:
            yield from _rows(plan, path, known, _lines(path, file.readline, told))
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; give the path of a CSV file") from None


def read_header(plan: Plan, path: Path) -> Columns:
    """The columns of a file."""
    try:
        with path.open("rb") as file:
            lines = _lines(path, file.readline, lambda *_: None)
            return _header(plan, path, lines)[0]
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; give the path of a CSV file") from None


def _lines(path: Path, readline: Callable[[int], bytes], told: Progress) -> Iterator[str]:
    number, size = 0, 0
    while line := readline(LINE_MAX + 1):
        number += 1
        size += len(line)
        if len(line) > LINE_MAX:
            raise LocalFault(f"{path}, line {number}: longer than {LINE_MAX:,} bytes; is it CSV?")
        if number % 4096 == 0:
            told(path, size)
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise LocalFault(
                f"{path}, line {number}: not UTF-8; convert it: iconv -f latin1 -t utf-8"
            ) from None
    told(path, size)


def _header(plan: Plan, path: Path, lines: Iterator[str]) -> tuple[Columns, str]:
    first = next(lines, "")
    delimiter = plan.delimiter or max(_DELIMITERS, key=first.count)
    try:
        header = next(csv.reader([first], delimiter=delimiter), [])
    except csv.Error as error:
        raise LocalFault(f"{path}, line 1: {error}") from None
    if not any(cell.strip() for cell in header):
        raise LocalFault(f"{path}: the first line is to name the columns; it is empty")
    return find_columns(plan, path, header), delimiter


def _rows(plan: Plan, path: Path, known: Columns | None, lines: Iterator[str]) -> Iterator[Row]:
    columns, delimiter = _header(plan, path, lines)
    if known is not None and columns.names != known.names:
        raise LocalFault(
            f"{path}: channels {', '.join(columns.names)[:200]} are not those of "
            f"{plan.files[0]}; name what all files have: --channels"
        )
    reader = csv.reader(lines, delimiter=delimiter)
    scale = UNITS[plan.time_unit]
    try:
        for cells in reader:
            if not cells:
                continue
            if len(cells) != columns.count:
                raise LocalFault(
                    f"{path}, line {reader.line_num + 1}: {len(cells)} cells, the first line has "
                    f"{columns.count}; repair or remove the line"
                )
            where = (path, reader.line_num + 1)
            yield Row(
                path.stem if columns.device is None else cells[columns.device].strip(),
                None if columns.time is None else _time(cells[columns.time], scale, plan, where),
                None if columns.label is None else cells[columns.label].strip() or None,
                _values(cells, columns, where),
            )
    except csv.Error as error:
        raise LocalFault(f"{path}, line {reader.line_num + 1}: {error}") from None


def _values(cells: list[str], columns: Columns, where: tuple[Path, int]) -> list[float] | None:
    """The channels' numbers; None if one is missing or not finite."""
    try:
        values = [float(cells[i]) for i in columns.channels]
    except ValueError:
        for i, name in zip(columns.channels, columns.names, strict=True):
            if cells[i].strip() and not _is_number(cells[i]):
                path, line = where
                comma = " (a decimal comma? write a point)" if "," in cells[i] else ""
                raise LocalFault(
                    f"{path}, line {line}, column {name!r}: {cells[i][:40]!r} is no number{comma}; "
                    "repair it, or leave the column out: name the others by --channels"
                ) from None
        return None  # an empty cell
    return values if all(map(math.isfinite, values)) else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _time(cell: str, scale: float, plan: Plan, where: tuple[Path, int]) -> float:
    """Seconds, from a number or a date with a time (ISO 8601; UTC if it doesn't say)."""
    try:
        time = float(cell) * scale
    except ValueError:
        try:
            date = datetime.fromisoformat(cell.strip())
        except ValueError:
            time = math.nan
        else:
            time = (date.replace(tzinfo=date.tzinfo or UTC)).timestamp()
    if not math.isfinite(time):
        path, line = where
        raise LocalFault(
            f"{path}, line {line}, column {plan.time!r}: {cell[:40]!r} is no time; want seconds "
            "(or --time-unit), or a date like 2026-01-31T12:00:00.250"
        )
    return time
