"""Reading what the kernel shows as files: small, and never to be relied on.

Every sensor takes a root directory, "/" or a tree that stands for it.
"""

import errno
import os
import re
from pathlib import Path

CEILING = 4096  # bytes: a sysfs attribute fits into a page
ENTRIES_MAX = 64  # of a directory: zones, supplies, interfaces
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EOPNOTSUPP)


class Unreadable(Exception):
    """A sensor is there and can't be read; the text says which and why."""


def text(path: Path, ceiling: int = CEILING) -> str | None:
    """The file's first `ceiling` bytes as text, stripped; None if there is no such file.

    Raises Unreadable for every other failure.
    """
    try:
        # Without O_NONBLOCK, opening a pipe in the place of a file would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, ceiling)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise Unreadable(f"{path}: {os.strerror(error.errno or 0)}") from None
    return data.decode("ascii", "replace").strip()


def number(path: Path) -> int | None:
    """The whole number in the file; None if there is no such file, Unreadable if it is none."""
    found = text(path)
    if found is None:
        return None
    if not _NUMBER.fullmatch(found):
        raise Unreadable(f"{path}: {word(found)!r} is no number")
    return int(found)


def entries(directory: Path, prefix: str = "") -> list[Path]:
    """The directory's first entries in order; none if there is no such directory.

    Raises Unreadable for every other failure.
    """
    try:
        names = [entry.name for entry in directory.iterdir()]
    except OSError as error:
        if error.errno in _MISSING:
            return []
        raise Unreadable(f"{directory}: {os.strerror(error.errno or 0)}") from None
    return [directory / name for name in sorted(n for n in names if n.startswith(prefix))][
        :ENTRIES_MAX
    ]


def word(found: str, most: int = 40) -> str:
    """What a file says, fit for a line of text: printable, at most `most` characters."""
    return "".join(c if c.isprintable() and c != "\ufffd" else "?" for c in found)[:most]
