"""How the disk under the state directory fares: room, and wear where the device tells it.

eMMC reports life_time and pre_eol_info (JESD84-B51, EXT_CSD 267-269; Linux:
Documentation/ABI/testing/sysfs-class-mmc and drivers/mmc/core/mmc.c). SD cards, which are most of
what Raspberry Pis boot from, report nothing of the kind; NVMe does, but not in /sys.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.storage.place import Place, place_of

LOW_BYTES: Final = 64 * 1024 * 1024
LOW_INODES: Final = 1000
WORN_PERCENT: Final = 80
_PRE_EOL: Final = {1: "normal", 2: "warning", 3: "urgent"}


@dataclass(frozen=True)
class StorageHealth:
    """Figures in bytes; None where nothing tells. `warnings` are sentences for people."""

    directory: str
    kind: str | None  # of file system
    device: str | None  # mmcblk0, nvme0n1…
    model: str | None
    read_only: bool
    persistent: bool
    free: int
    total: int
    free_inodes: int
    used: int  # by the state directory
    wear_percent: int | None  # upper end of the range that eMMC reports
    pre_eol: str | None
    warnings: tuple[str, ...]

    def counters(self) -> tuple[tuple[str, int], ...]:
        """For telemetry: sorted names, whole numbers."""
        found = {"disk_free_mb": self.free // 1_000_000, "state_kb": self.used // 1000}
        if self.wear_percent is not None:
            found["disk_wear_percent"] = self.wear_percent
        return tuple(sorted(found.items()))


def storage_health(directory: Path, root: Path = Path("/")) -> StorageHealth:
    """Look at the disk under `directory`; `root` has /proc and /sys. Raises OSError for none."""
    found = os.statvfs(directory)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    place = place_of(directory, root)
    disk = _disk(place, root)
    wear, pre_eol = (_wear(disk), _pre_eol(disk)) if disk else (None, None)
    read_only = bool(found.f_flag & os.ST_RDONLY) or (place is not None and place.read_only)
    fleeting = place.warning if place else None
    warnings = []
    if read_only:
        warnings.append(f"{directory} is read-only; mount its partition read-write")
    if fleeting:
        warnings.append(f"{directory}: {fleeting}")
    if free < LOW_BYTES:
        warnings.append(f"{free / 1e6:.0f} MB are free on the disk of {directory}; make room")
    if found.f_files and found.f_favail < LOW_INODES:
        warnings.append(f"{found.f_favail} files may still be made on that disk; remove some")
    if wear is not None and wear >= WORN_PERCENT:
        warnings.append(f"{disk.name if disk else ''} has used {wear} % of its life; replace it")
    if pre_eol in ("warning", "urgent"):
        warnings.append(f"the flash memory's spare blocks run out ({pre_eol}); replace it soon")
    return StorageHealth(
        directory=str(directory),
        kind=place.kind if place else None,
        device=disk.name if disk else None,
        model=_text(disk / "device/name") or _text(disk / "device/model") if disk else None,
        read_only=read_only,
        persistent=fleeting is None,
        free=free,
        total=total,
        free_inodes=found.f_favail,
        used=used_bytes(directory),
        wear_percent=wear,
        pre_eol=pre_eol,
        warnings=tuple(warnings),
    )


def used_bytes(directory: Path) -> int:
    """What is allocated below a directory; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
            except OSError:
                continue
    return total


def _disk(place: Place | None, root: Path) -> Path | None:
    """The /sys directory of the whole disk that a partition is on."""
    if place is None or place.device.startswith("0:"):  # no block device
        return None
    try:
        device = (root / "sys/dev/block" / place.device).resolve(strict=True)
    except OSError:
        return None
    return device.parent if (device / "partition").exists() else device


def _wear(disk: Path) -> int | None:
    """`life_time` has two figures, for two kinds of cells: 0x01 is 0-10 %, 0x0b beyond 100 %."""
    figures = [_hex(word) for word in (_text(disk / "device/life_time") or "").split()]
    known = [figure for figure in figures if figure and 1 <= figure <= 11]
    return 10 * max(known) if known else None


def _pre_eol(disk: Path) -> str | None:
    return _PRE_EOL.get(_hex(_text(disk / "device/pre_eol_info") or "") or 0)


def _hex(word: str) -> int | None:
    try:
        return int(word, 16)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """A short attribute; None if there is none or it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(256).decode("ascii", "replace").strip() or None
    except OSError:
        return None
