"""What a directory lies on, by /proc/self/mountinfo (proc_pid_mountinfo(5)) and /sys."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FLEETING: Final = frozenset({"tmpfs", "ramfs", "overlay"})
_MOUNTINFO_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Place:
    """The file system under a directory."""

    mount: str
    kind: str  # ext4, tmpfs, overlay…
    source: str
    device: str  # major:minor
    read_only: bool

    @property
    def warning(self) -> str | None:
        """Why state would not survive there; None if nothing speaks against it."""
        if self.kind not in _FLEETING:
            return None
        return (
            f"it is on {self.kind} ({self.mount}), which forgets at the next start: a device would "
            "train twice for one round. Mount a partition that persists and put device.state_dir "
            "on it"
        )


def place_of(directory: Path, root: Path = Path("/")) -> Place | None:
    """The mount that `directory` is on; None where /proc doesn't tell.

    Of several mounts on one point the last one counts: it hides the others.
    """
    try:
        with (root / "proc/self/mountinfo").open("rb") as file:
            text = os.fsdecode(file.read(_MOUNTINFO_MAX))
    except OSError:
        return None
    path, best = directory.absolute(), None
    for line in text.splitlines():
        found = _parse(line)
        if found is None or not path.is_relative_to(found.mount):
            continue
        if best is None or len(found.mount) >= len(best.mount):
            best = found
    return best


def _parse(line: str) -> Place | None:
    left, dash, right = line.partition(" - ")
    mine, theirs = left.split(" "), right.split(" ")
    if not dash or len(mine) < 6 or len(theirs) < 3:
        return None
    options = {*mine[5].split(","), *theirs[2].split(",")}
    mount = _unescape(mine[4])
    return Place(mount, theirs[0], _unescape(theirs[1]), mine[2], "ro" in options)


def _unescape(text: str) -> str:
    """Blanks and backslashes are written as three octal digits."""
    first, *rest = text.split("\\")
    for part in rest:
        digits = part[:3]
        if len(digits) == 3 and all(c in "01234567" for c in digits):
            first += chr(int(digits, 8) % 256) + part[3:]
        else:
            first += "\\" + part
    return first
