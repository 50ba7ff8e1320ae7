"""Releases that wait: `<state>/update/staged/*.qflare`. I/O.

The directories belong to the daemon's user. Root opens them step by step without following links,
reads from what it opened, and believes nothing but signatures.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from edge_runtime.upgrade.health import FOLDER
from qflare.faults import LocalFault
from qflare.host.bundle import SUFFIX

_NAME: Final = "staged"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MANY: Final = 64


@contextmanager
def staged_dir(state_dir: Path, make: bool = False) -> Iterator[int | None]:
    """A descriptor of the directory, or None where there is none; `make` makes it.

    What is made gets the owner of the state directory. Raises LocalFault if links are in the way.
    """
    opened: list[int] = []
    try:
        here: int | None = None
        for name in (str(state_dir), FOLDER, _NAME):
            here = _enter(here, name, make)
            if here is None:
                break
            opened.append(here)
        yield here
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _enter(parent: int | None, name: str, make: bool) -> int | None:
    flags = _DIRECTORY if parent is not None else _DIRECTORY & ~os.O_NOFOLLOW
    try:
        if make and parent is not None:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
                owner = os.fstat(parent)
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalFault(
            f"{name}: {error.strerror}; the state directory's update/staged has to be a directory "
            "that can be read, without links; try it as root (sudo)"
        ) from None


def names(directory: int) -> list[str]:
    """The bundles in there; those that are still being copied have another ending."""
    found = [name for name in os.listdir(directory) if name.endswith(SUFFIX)]
    return sorted(found)[:_MANY]


def open_staged(directory: int, name: str) -> BinaryIO | None:
    """Open a bundle to read; None if it is gone or no regular file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


def drop(directory: int, name: str) -> None:
    """Remove one. What can't be removed, as a directory can't, loses its ending: else systemd would
    start us for it again and again.
    """
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except OSError:
        aside = f"{name}.{secrets.token_hex(4)}.refused"
        with suppress(OSError):
            os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
    with suppress(OSError):
        os.fsync(directory)


def put(directory: int, name: str, source: BinaryIO) -> None:
    """Add a bundle: it is whole and durable before it has its name. Raises OSError."""
    draft = f".{name}.{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600, dir_fd=directory), "wb") as out:
            shutil.copyfileobj(source, out, 1024 * 1024)
            out.flush()
            os.fsync(out.fileno())
        os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft, dir_fd=directory)
        raise
    os.fsync(directory)
