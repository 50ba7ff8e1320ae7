"""How many processes of ours the kernel killed for want of memory. I/O.

Source: the kernel's admin-guide/cgroup-v2.rst, memory.events.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from qflare.host.files import read_bounded

_CEILING: Final = 64 * 1024  # bytes of a file of the kernel's


class Kills:
    """The count of the cgroup that this process is in; `root` is "/", but for a test."""

    def __init__(self, root: Path = Path("/")) -> None:
        base = root / "sys/fs/cgroup"
        self._events = base / "memory.events"
        for line in _text(root / "proc/self/cgroup").splitlines():
            if line.startswith("0::/") and ".." not in line:
                self._events = base / line.removeprefix("0::/") / "memory.events"

    def count(self) -> int:
        """How many there were; 0 if nobody counts."""
        for line in _text(self._events).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isascii() and count.isdecimal():
                return int(count)
        return 0


def _text(path: Path) -> str:
    with suppress(Exception):
        return read_bounded(path, _CEILING).decode(errors="replace")
    return ""
