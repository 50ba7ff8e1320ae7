"""Room that is ours already: a file that is given up when a transaction finds the disk full."""

import os
from contextlib import suppress
from pathlib import Path

from qflare.host.files import sync_dir

MARGIN = 1024 * 1024  # bytes that we leave to others when we take the reserve again


class Reserve:
    """A file of blocks that are allocated and never written, so that it costs no wear."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    @property
    def whole(self) -> bool:
        try:
            return self._path.stat().st_blocks * 512 >= self._size
        except FileNotFoundError:
            return self._size == 0

    def take(self) -> bool:
        """Allocate it if there is room; is it whole?"""
        if self.whole:
            return True
        if free_bytes(self._path.parent) < self._size + MARGIN:
            return False
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(file, 0, self._size)
        except OSError:
            with suppress(OSError):
                self._path.unlink()
            return False
        finally:
            os.close(file)
        return self.whole

    def give_up(self) -> bool:
        """Make room; was there any to make?"""
        try:
            self._path.unlink()
        except OSError:
            return False
        with suppress(OSError):
            sync_dir(self._path.parent)  # ext4 frees the blocks when this is committed
        return True


def free_bytes(directory: Path) -> int:
    """What we could still write there; raises OSError."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
