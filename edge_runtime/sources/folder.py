"""Files in a folder that are whole: one still being written isn't taken up yet. No numpy."""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault

FILES_MAX: Final = 100_000
SETTLE_S: Final = 2.0  # a file that nobody has written to for so long is whole


@dataclass(frozen=True, slots=True)
class Identity:
    """Of a file and what is in it, as far as the file system knows."""

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


Listing = dict[str, Identity]  # by path relative to the folder, in order


def list_files(root: Path, endings: tuple[str, ...], now: float | None = None) -> Listing:
    """The files below `root` (or `root` itself) with these endings; hidden ones are left out.

    A file that was renamed to its name is whole as well, since its content has settled by then or
    will soon. A date in the future is of a clock that was set back, and not of someone writing now.
    """
    now = time.time() if now is None else now
    if root.is_file():
        return {root.name: Identity.of(root.stat())}
    if not root.is_dir():
        raise LocalFault(f"{root}: no such folder; create it, or correct data.path")
    found: Listing = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or not name.lower().endswith(endings):
                continue
            path = Path(folder) / name
            try:
                status = path.stat()
            except OSError:
                continue
            age = now - status.st_mtime
            if not stat.S_ISREG(status.st_mode) or abs(age) < SETTLE_S:
                continue
            found[str(path.relative_to(root))] = Identity.of(status)
            if len(found) > FILES_MAX:
                raise LocalFault(f"{root}: more than {FILES_MAX} files; put fewer there")
    return dict(sorted(found.items()))


def folder_label(name: str) -> str:
    """The label that a file's place gives it: the folder that it is in directly, or ""."""
    return Path(name).parent.name
