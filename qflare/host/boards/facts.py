"""What the running board says of itself: UARTs, power mode, watchdog, throttling, the clock.

Everything is read below `root`, so that a mounted card can be looked at; what only a running board
can say is None there.
"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qflare.host.boards.profile import Board
from qflare.host.throttled import throttled_files

_CEILING: Final = 64 * 1024
_TIME_ERROR: Final = 5  # adjtimex(2): the clock isn't synchronised
_MODE: Final = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=([0-9]{1,3})\s+NAME=(\S+)\s*>", re.MULTILINE)
_STATUS: Final = re.compile(r"pmode:([0-9]{1,4})")
_RUNTIME: Final = re.compile(r"^\s*RuntimeWatchdogSec\s*=\s*(.*?)\s*$", re.MULTILINE)
_SPAN: Final = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|seconds|second|sec|s|minutes|minute|min|m|)"
)
_UNITS: Final = {
    "us": 1e-6,
    "ms": 1e-3,
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
}
# Raspberry Pi: vcgencmd get_throttled; raspberrypi/documentation, os.adoc.
_THROTTLED: Final = {
    0: "the voltage is too low",
    1: "the clock is capped",
    2: "it is throttled",
    3: "it is at the soft limit of its temperature",
    16: "the voltage was too low",
    17: "the clock was capped",
    18: "it was throttled",
    19: "it was at the soft limit of its temperature",
}


@dataclass(frozen=True, slots=True)
class Port:
    """A UART of the profile, and what it is called now; None: it isn't there."""

    name: str
    tty: str | None


def ports(board: Board, root: Path = Path("/")) -> tuple[Port, ...]:
    """Each UART of the profile with its device's name of today, found by its address."""
    found: dict[str, str] = {}
    try:
        entries = sorted((root / "sys/class/tty").iterdir())
    except OSError:
        entries = []
    for entry in entries:
        for part in entry.resolve().parts:
            address, dot, kind = part.partition(".")
            if dot and kind.split(":")[0] == "serial":
                found.setdefault(address, entry.name)
    return tuple(Port(uart.name, found.get(uart.address)) for uart in board.uart)


def power_modes(root: Path = Path("/")) -> dict[int, str]:
    """The modes of a Jetson's nvpmodel by number; empty where there is none."""
    return {int(n): name for n, name in _MODE.findall(_read(root / "etc/nvpmodel.conf") or "")}


def power_mode(root: Path = Path("/")) -> str | None:
    """The name of the mode that a Jetson is in."""
    found = _STATUS.search(_read(root / "var/lib/nvpmodel/status") or "")
    return None if found is None else power_modes(root).get(int(found[1]))


def runtime_watchdog(root: Path = Path("/")) -> float | None:
    """RuntimeWatchdogSec in seconds: 0 if it is off, None if it can't be told.

    Of files of one name, that in /etc counts; all are read in the order of their names
    (systemd-system.conf(5)).
    """
    files: dict[str, Path] = {}
    for folder in ("usr/lib", "usr/local/lib", "run", "etc"):
        place = root / folder / "systemd/system.conf.d"
        try:
            files |= {path.name: path for path in place.iterdir() if path.suffix == ".conf"}
        except OSError:
            continue
    value = "0"
    for path in (root / "etc/systemd/system.conf", *(files[name] for name in sorted(files))):
        found = _RUNTIME.findall(_read(path) or "")
        value = found[-1] if found else value
    return seconds(value)


def seconds(text: str) -> float | None:
    """A time span of systemd in seconds; None for one that this doesn't understand."""
    if text in ("", "off", "infinity"):
        return 0.0
    parts = _SPAN.findall(text)
    if not parts or "".join(text.split()) != "".join(number + unit for number, unit in parts):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def throttling(root: Path = Path("/")) -> list[str] | None:
    """What holds the board back, or did since it started, in words; None if nothing tells."""
    for told in _words(root):
        if found := re.fullmatch(r"(?:throttled=0x)?([0-9a-fA-F]{1,8})\s*", told):
            bits = int(found[1], 16)
            return [words for bit, words in _THROTTLED.items() if bits >> bit & 1]
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if (_read(folder / "name") or "").strip() == "rpi_volt":
            alarm = (_read(folder / "in0_lcrit_alarm") or "").strip()
            return {"0": [], "1": [_THROTTLED[0]]}.get(alarm)
    return None


def _words(root: Path) -> Iterator[str]:
    """The firmware's word, by the program or by the kernel's file."""
    if root == Path("/") and (program := shutil.which("vcgencmd")):
        with suppress(OSError, subprocess.SubprocessError):
            yield subprocess.run(
                [program, "get_throttled"], capture_output=True, text=True, timeout=5, check=False
            ).stdout
    for file in throttled_files(root):
        yield _read(file) or ""


def clock_is_set(root: Path = Path("/")) -> bool | None:
    """Whether something keeps the clock right: asked of the kernel on the running board."""
    if root != Path("/"):
        return None
    buffer = ctypes.create_string_buffer(512)  # struct timex; modes = 0 only asks
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = int(adjtimex(buffer))
    return None if state < 0 else state != _TIME_ERROR


def watchdog_devices(root: Path = Path("/")) -> list[str]:
    """What each hardware watchdog calls itself."""
    folders = sorted((root / "sys/class/watchdog").glob("watchdog*"))
    return [(_read(folder / "identity") or folder.name).strip() for folder in folders]


def running_words(root: Path = Path("/")) -> list[str]:
    """The words that the running kernel was started with; empty for a mounted card."""
    return (_read(root / "proc/cmdline") or "").split()


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_CEILING).decode("utf-8", "replace")
    except OSError:
        return None
