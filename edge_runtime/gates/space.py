"""Room in memory and on disk, and whether somebody holds training by a file."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge_runtime.gates.files import Unreadable, text, word
from edge_runtime.gates.readings import Disk, Memory, Seen

_AVAILABLE = re.compile(r"^MemAvailable: +([0-9]{1,15}) kB$", re.MULTILINE)
_WHY_MAX = 100  # characters of a holder's reason


class FileSystem(Protocol):
    """What of os.statvfs_result is used here."""

    @property
    def f_frsize(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...
    @property
    def f_files(self) -> int: ...
    @property
    def f_favail(self) -> int: ...
    @property
    def f_flag(self) -> int: ...


def read_memory(root: Path) -> Seen[Memory]:
    """What the kernel estimates to be available without swapping (proc(5), since Linux 3.14)."""
    path = root / "proc/meminfo"
    try:
        found = text(path)
    except Unreadable as fault:
        return Seen(trouble=str(fault))
    if found is None:
        return Seen(trouble=f"{path} is missing; the unit may hide it (ProcSubset=pid)")
    match = _AVAILABLE.search(found)
    if not match:
        return Seen(trouble=f"{path} doesn't say MemAvailable")
    return Seen(Memory(int(match[1]) * 1024))


def read_disk(directory: Path, statvfs: Callable[[Path], FileSystem] = os.statvfs) -> Seen[Disk]:
    """The file system that `directory` is on. A card that wears out often turns read-only."""
    try:
        found = statvfs(directory)
    except OSError as error:
        return Seen(trouble=f"{directory}: {os.strerror(error.errno or 0)}")
    names = found.f_favail if found.f_files > 0 else None  # btrfs and FAT make them as they go
    free = found.f_bavail * found.f_frsize
    return Seen(Disk(free, names, bool(found.f_flag & os.ST_RDONLY)))


def read_hold(path: Path) -> Seen[str]:
    """By which file, and why by its first line; empty text if there is no such file."""
    try:
        found = text(path)
    except Unreadable as fault:
        return Seen(trouble=str(fault))
    if found is None:
        return Seen("")
    why = word((found.splitlines() or [""])[0], _WHY_MAX)
    return Seen(f"{path}: {why}" if why else str(path))
