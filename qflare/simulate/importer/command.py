"""`qflare data import`: options, progress and what is printed."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from qflare.names import DeviceId
from qflare.simulate.importer.plan import UNITS, Plan
from qflare.simulate.importer.run import Result, run

EXAMPLES = """\
examples:
  qflare data import watch.csv --device subject --label exercise --time seconds -o watch
  qflare data import a.csv b.csv --label state --window 256 --step 128 -o machines
  qflare data import motor.csv --device motor --time at --channels current,heat --window 1 -o motor

The last part of each recording (--test) becomes the test part, and no window crosses from one
part, label, device or recording to another. A recording ends where the label changes, where a row
lacks a value, and where the time jumps.
"""
_DEVICES_SHOWN = 20
_EVERY_S = 0.5


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    group = commands.add_parser("data", help="bring your own data")
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parser = verbs.add_parser(
        "import",
        help="cut sensor recordings in CSV files into windows, one file a device",
        description="Cut recordings of sensors in CSV files into windows. Writes "
        "FOLDER/<device>.npz for each device and FOLDER/schema.toml for `qflare model build`.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "files", nargs="+", type=Path, metavar="FILE.csv", help="their first lines name the columns"
    )
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    add("--device", metavar="COLUMN", help="says whose a row is (default: each file is a device)")
    add("--label", metavar="COLUMN", help="says what is to be learned (default: no labels)")
    add("--time", metavar="COLUMN", help="seconds, or dates in ISO 8601 (default: no gaps)")
    add("--channels", metavar="NAMES", help="columns, with commas between (default: all others)")
    add("--units", metavar="NAMES", help="of the channels, with commas between (default: 1)")
    add("--classes", metavar="NAMES", help="labels in the order of their codes (default: sorted)")
    add("--window", type=int, default=128, help="rows of an example (default %(default)s)")
    add("--step", type=int, default=64, help="rows from one to the next (default %(default)s)")
    add("--test", type=float, default=0.25, help="share of each recording (default %(default)s)")
    add("--max-gap", type=float, metavar="SECONDS", help="in a recording (default: 3 intervals)")
    add("--time-unit", choices=UNITS, default="s", help="of numbers (default %(default)s)")
    add("--delimiter", help="between cells (default: comma, semicolon or tab, as the file has it)")
    add("--json", action="store_true", help="print one JSON object on standard output, alone")
    parser.set_defaults(run=_run)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What the options ask for."""

    def names(text: str | None) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",")) if text else ()

    return Plan(
        files=tuple(arguments.files),
        folder=arguments.output,
        device=arguments.device,
        label=arguments.label,
        time=arguments.time,
        channels=names(arguments.channels),
        units=names(arguments.units),
        classes=names(arguments.classes),
        window=arguments.window,
        step=arguments.step,
        test=arguments.test,
        max_gap=arguments.max_gap,
        time_unit=arguments.time_unit,
        delimiter=arguments.delimiter,
    )


def _run(arguments: argparse.Namespace) -> int:
    progress = _Progress(sys.stderr)
    try:
        result = run(plan_of(arguments), progress.read, progress.wrote)
    finally:
        progress.stop()
    print(json.dumps(to_json(result), indent=2) if arguments.json else to_text(result))
    return 0


def to_json(result: Result) -> dict[str, Any]:
    """For scripts."""
    return {
        "folder": str(result.folder),
        "schema": str(result.schema),
        "rows": result.rows,
        "left_out": result.left_out,
        "train_windows": result.train,
        "test_windows": result.test,
        "shape": list(result.shape),
        "channels": list(result.channels),
        "rate_hz": result.rate_hz,
        "classes": result.classes,
        "devices": [
            {
                "device": device.device,
                "called": device.original,
                "rows": device.rows,
                "recordings": device.recordings,
                "train_windows": device.train,
                "test_windows": device.test,
            }
            for device in result.devices
        ],
        "devices_without_windows": list(result.without_windows),
        "notes": list(result.notes),
    }


def to_text(result: Result) -> str:
    """For people: what was made, what to look at, and what to do next."""
    shape = " x ".join(map(str, result.shape))
    rate = "" if result.rate_hz is None else f" at {result.rate_hz:g} Hz"
    lines = [
        f"{result.rows:,} rows, {len(result.devices):,} devices: {result.train:,} windows to train "
        f"on, {result.test:,} to test, each {shape}{rate}",
        "",
        f"{'device':<32}  {'rows':>10}  {'recordings':>10}  {'train':>7}  {'test':>7}",
    ]
    for device in result.devices[:_DEVICES_SHOWN]:
        lines.append(
            f"{device.device:<32}  {device.rows:>10,}  {device.recordings:>10,}  "
            f"{device.train:>7,}  {device.test:>7,}"
        )
    if len(result.devices) > _DEVICES_SHOWN:
        lines.append(f"… and {len(result.devices) - _DEVICES_SHOWN:,} more")
    if result.classes:
        many = ", ".join(f"{name} {count:,}" for name, count in result.classes.items())
        lines += ["", f"windows to train on, by class: {many}"]
    notes = list(result.notes)
    if result.left_out:
        notes.append(f"{result.left_out:,} rows lack a value or a label and were left out")
    if result.without_windows:
        some = ", ".join(result.without_windows[:5])
        notes.append(f"too short for a window to train on, left out: {some}"[:200])
    lines += ["", *(f"note: {note}" for note in notes)] if notes else []
    task = "classification" if result.classes else "autoencoder"
    lines += [
        "",
        f"wrote {result.folder}/*.npz and {result.schema}; next:",
        f"  qflare model build my_model.py:make_model --task {task} "
        f"--schema {result.schema} -o model.tflite",
        f"  qflare simulate --model model.tflite --dataset {result.folder}",
    ]
    return "\n".join(lines)


class _Progress:
    """How far it is, on a terminal only: one line that is written over."""

    def __init__(self, out: TextIO) -> None:
        self._out = out if out.isatty() else None
        self._next = time.monotonic() + _EVERY_S
        self._width = 0

    def read(self, path: Path, size: int) -> None:
        if self._due():
            whole = path.stat().st_size
            part = f" ({100 * size // whole} %)" if whole else ""
            self._line(f"reading {path}: {size / 1e6:.1f} MB{part}")

    def wrote(self, device: DeviceId) -> None:
        if self._due():
            self._line(f"wrote {device}.npz")

    def stop(self) -> None:
        if self._out and self._width:
            self._line("")
            self._out.write("\r")
            self._out.flush()

    def _due(self) -> bool:
        if self._out is None or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _EVERY_S
        return True

    def _line(self, text: str) -> None:
        if self._out:
            self._out.write("\r" + text[:100].ljust(self._width))
            self._out.flush()
            self._width = len(text[:100])
