"""What a device is, read from its system. I/O below a root that tests choose."""

import os
import platform
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_SERIAL_LINE = re.compile(r"^Serial\s*:\s*(\w+)", re.MULTILINE)
_READ_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """`model` in the maker's words, `bits` of the user space, `memory` and free `disk` in bytes."""

    model: str
    serial: str
    machine: str
    bits: int
    memory: int
    disk: int


def look(root: Path, state: Path) -> Facts:
    """Look at the system at `root`; `state` is where the device keeps its own."""
    space = os.statvfs(state)
    return Facts(
        model=model(root),
        serial=serial(root),
        machine=platform.machine(),
        bits=struct.calcsize("P") * 8,
        memory=memory(root),
        disk=space.f_bavail * space.f_frsize,
    )


def model(root: Path) -> str:
    """The board in the maker's words, as the device tree or the firmware says."""
    for path in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        if text := read(root / path):
            return text[:128]
    return "unknown"


def serial(root: Path) -> str:
    """The board's serial number, else the system's own machine id; [A-Za-z0-9._-], 1 to 64."""
    found = read(root / "proc/device-tree/serial-number")
    if not found and (line := _SERIAL_LINE.search(read(root / "proc/cpuinfo"))):
        found = line.group(1)
    for path in ("sys/class/dmi/id/product_serial", "etc/machine-id"):
        found = found or read(root / path)
    return _UNFIT.sub("-", found).strip("-.")[:64] or "unknown"


def memory(root: Path) -> int:
    """Bytes of memory, 0 if the system doesn't say."""
    for line in read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal" and value.split()[:1]:
            number = value.split()[0]
            return int(number) * 1024 if number.isdecimal() else 0
    return 0


def temperature(root: Path) -> float | None:
    """The hottest thermal zone in degrees Celsius, or None if there is none."""
    found = []
    for path in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")):
        text = read(path)
        if text.lstrip("-").isdecimal():
            found.append(int(text) / 1000)
    return max((value for value in found if -55 < value < 150), default=None)


def under_voltage(root: Path) -> bool | None:
    """Does a Raspberry Pi's supply sag now? None where that can't be read.

    The file is the raspberrypi-hwmon driver's: in0_lcrit_alarm of the device named rpi_volt.
    """
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read(folder / "name") == "rpi_volt":
            return read(folder / "in0_lcrit_alarm") == "1"
    return None


def clock() -> float:
    """Seconds since 1970, never less: a device without a clock may be anywhere."""
    return max(time.time(), 0.0)


def read(path: Path) -> str:
    """A small system file's printable text, without zeros and blanks at its end; "" if none."""
    try:
        with path.open("rb") as file:
            text = file.read(_READ_MAX).decode(errors="replace")
    except OSError:
        return ""
    return "".join(c for c in text if c.isprintable() or c in "\n\t").strip()
