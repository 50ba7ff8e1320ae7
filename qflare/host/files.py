"""Files that survive a power cut, and reads that cannot be made to fill the memory."""

import fcntl
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from qflare.faults import LocalFault


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`: after a crash at any point it holds the old bytes or the new.

    The bytes reach the disk before the name does, and the name before this returns.
    Raises OSError when the file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_dir(path.parent)


def write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at this place of an open file; OSError if the disk refuses."""
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


def sync_dir(directory: Path) -> None:
    """Make the directory's entries durable: what was created, renamed or removed in it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, ceiling: int) -> bytes:
    """Return the file's bytes; LocalFault if it has more than `ceiling` or isn't a regular file.

    Raises FileNotFoundError as `open` does, so that "not there yet" stays easy to tell.
    """
    # Without O_NONBLOCK, opening a pipe that somebody left here would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise LocalFault(f"{path} is not a regular file; move it away")
    # `read` allocates all that it is asked for. The kernel's own files have no size.
    most = min(status.st_size, ceiling) if status.st_size else ceiling
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
        if len(data) > most:  # it grew meanwhile
            data += file.read(ceiling + 1 - len(data))
    if len(data) > ceiling:
        raise LocalFault(f"{path} has more than {ceiling} bytes; it cannot be what we wrote there")
    return data


def take_lock(path: Path, busy: str) -> int:
    """Hold `path` for as long as the descriptor that is returned stays open.

    Raises LocalFault(`busy`) if another process holds it, OSError if it can't be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LocalFault(busy) from None
    return descriptor


def ensure_private_dir(path: Path) -> Path:
    """Make `path` a directory of ours with mode 0700 (parents as the umask says); return it.

    Raises LocalFault if something else is in the way, or if it belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise LocalFault(f"{path} exists and is no directory; move it away") from None
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise LocalFault(
            f"{path} belongs to user {status.st_uid} and we are {os.geteuid()}; "
            "choose another directory or give this one to us"
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)
    return path
