"""One import, from files to a folder that is there whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qflare.faults import LocalFault
from qflare.names import DeviceId
from qflare.simulate.importer import windows, writing
from qflare.simulate.importer.plan import NAME_MAX, Plan
from qflare.simulate.importer.reading import Progress, read_header, read_rows
from qflare.simulate.importer.spool import Spool

SCHEMA: Final = "schema.toml"
_RATES_APART: Final = 1.05
_SLOW_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made of one device's rows."""

    device: DeviceId
    original: str
    rows: int
    recordings: int
    train: int  # windows
    test: int


@dataclass(frozen=True)
class Result:
    """What an import made."""

    folder: Path
    rows: int
    left_out: int  # rows without a value or a label
    devices: tuple[Imported, ...]
    without_windows: tuple[str, ...]  # devices
    classes: dict[str, int]  # windows to train on, by name, in the order of the codes
    channels: tuple[str, ...]
    shape: tuple[int, ...]
    rate_hz: float | None
    notes: tuple[str, ...]

    @property
    def schema(self) -> Path:
        return self.folder / SCHEMA

    @property
    def train(self) -> int:
        return sum(device.train for device in self.devices)

    @property
    def test(self) -> int:
        return sum(device.test for device in self.devices)


@dataclass
class _Findings:
    devices: list[Imported] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)
    longest: int = 0
    rows: int = 0


def run(plan: Plan, told: Progress, wrote: Callable[[DeviceId], None]) -> Result:
    """Import; LocalFault says what is wrong and leaves nothing behind.

    `told` hears how far a file was read, `wrote` which device's file was written.
    """
    with _new_folder(plan.folder) as unfinished:
        with tempfile.TemporaryDirectory(prefix=".rows-", dir=unfinished) as rows:
            columns = read_header(plan, plan.files[0])
            spool = Spool(Path(rows), len(columns.names), plan.label is not None)
            for path in plan.files:
                for row in read_rows(plan, path, columns, told):
                    spool.add(row)
                if plan.time is None:
                    spool.end_file()
            classes, codes = _classes(plan, spool)
            found = _Findings()
            moments = writing.Moments(len(columns.names))
            hits = np.zeros(max(len(classes), 1), np.int64)
            for name, original, table in spool.devices():
                time = np.asarray(table["time"]) if plan.time is not None else None
                parts = windows.recordings(
                    time, table["piece"], table["label"], plan.test, plan.max_gap
                )
                found.rows += len(table)
                found.longest = max(found.longest, *(r.cut - r.start for r in parts))
                if time is not None and (usual := windows.interval(time)):
                    found.intervals.append(usual)
                train, test = writing.counts(plan, parts)
                if not train:
                    found.without.append(original)
                    continue
                for r in parts:
                    moments.add(table["x"][r.start : r.cut])
                    many = len(windows.starts(r.start, r.cut, plan.window, plan.step))
                    hits[codes[r.label]] += many
                _check_space(unfinished, 4 * (train + test) * plan.window * len(columns.names))
                writing.write_windows(
                    unfinished / f"{name}.npz",
                    plan,
                    table["x"],
                    parts,
                    codes if plan.label is not None else None,
                )
                found.devices.append(Imported(name, original, len(table), len(parts), train, test))
                wrote(name)
        _verify_found(plan, found, spool.left_out)
        rate = _rate(found)
        text = writing.schema(plan, columns.names, moments, rate, classes)
        (unfinished / SCHEMA).write_text(text, encoding="utf-8")
    return Result(
        folder=plan.folder,
        rows=found.rows + spool.left_out,
        left_out=spool.left_out,
        devices=tuple(found.devices),
        without_windows=tuple(found.without),
        classes=dict(zip(classes, hits.tolist(), strict=True)) if classes else {},
        channels=columns.names,
        shape=(*plan.shape, len(columns.names)),
        rate_hz=rate,
        notes=tuple(_notes(plan, found, dict(zip(classes, hits.tolist(), strict=False)))),
    )


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place if all goes well, and goes if not."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LocalFault(f"{folder} is there already and not empty; give another folder: -o")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise LocalFault(f"{folder}: {error.strerror}; give another folder: -o") from None
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    except OSError as error:
        raise LocalFault(f"{folder}: {error.strerror}; give another folder: -o") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _classes(plan: Plan, spool: Spool) -> tuple[list[str], NDArray[np.int32]]:
    """The classes' names in order, and the class of each of the spool's labels."""
    labels = list(spool.labels)
    if plan.label is None:
        return [], np.zeros(1, np.int32)
    if plan.classes:
        strange = [label for label in labels if label not in plan.classes]
        if strange:
            raise LocalFault(
                f"label {strange[0][:40]!r} is none of --classes {', '.join(plan.classes)[:200]}"
            )
        classes = list(plan.classes)
    else:
        whole = all(label.lstrip("-").isdecimal() for label in labels)
        classes = sorted(labels, key=int) if whole else sorted(labels)
    if not labels:
        raise _no_rows(plan, spool.left_out)
    if len(classes) < 2:
        raise LocalFault(
            f"the label is always {classes[0][:40]!r}; a classification has two or more classes: "
            "leave --label out, or name another column"
        )
    return classes, np.array([classes.index(label) for label in labels], np.int32)


def _verify_found(plan: Plan, found: _Findings, left_out: int) -> None:
    if found.devices:
        return
    if not found.rows:
        raise _no_rows(plan, left_out)
    raise LocalFault(
        f"no recording has a window of {plan.window} rows to train on: the longest has "
        f"{found.longest}; choose a smaller --window, or a larger --max-gap"
    )


def _no_rows(plan: Plan, left_out: int) -> LocalFault:
    also = f"; {left_out:,} rows had no value or no label" if left_out else ""
    return LocalFault(f"{plan.files[0]} has no rows to import{also}")


def _rate(found: _Findings) -> float | None:
    """Rows a second, of the typical device."""
    if not found.intervals:
        return None
    return float(f"{1 / float(np.median(found.intervals)):.4g}")


def _notes(plan: Plan, found: _Findings, classes: dict[str, int]) -> Iterator[str]:
    """What a person may want to look at."""
    if found.intervals:
        low, high = min(found.intervals), max(found.intervals)
        if high > low * _RATES_APART:
            yield (
                f"devices sample at {1 / high:.4g} to {1 / low:.4g} rows a second; a model sees "
                "rows only, so resample them to one rate first"
            )
        if low >= _SLOW_S and plan.time_unit == "s":
            yield (
                f"rows are {low:g} s apart; if the times are in milliseconds, say --time-unit ms"
            )
    missing = [name for name, many in classes.items() if not many]
    if missing:
        yield f"no window to train on has the label {', '.join(missing)[:NAME_MAX]}"


def _check_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise LocalFault(
            f"the windows need {wanted / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB; "
            "choose a larger --step, or another disk: -o"
        )
