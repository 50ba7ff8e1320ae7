"""A real ext4 of a few megabytes on a loop device, to be filled, to fail, and to come back."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.power_loss.mounts import missing, run
from qflare.faults import LocalFault

LACKING = missing()


class SmallDisk:
    """`path` is where it is mounted."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.path = folder / "disk"
        self.path.mkdir()
        self._filler = self.path / "somebody-elses"
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(megabytes * 2**20)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", image)
        self._device = run("losetup", "--find", "--show", image)

    def mount(self, options: str = "rw") -> None:
        run("mount", "-t", "ext4", "-o", options, self._device, self.path)

    def fill(self, but: int = 0) -> None:
        """Leave so many bytes free."""
        with self._filler.open("ab", buffering=0) as file:
            size = 2**20
            while size >= 4096:
                try:
                    file.write(bytes(size))
                    os.fsync(file.fileno())
                except OSError:
                    size //= 2
            file.truncate(file.tell() - but)
            os.fsync(file.fileno())

    def make_room(self) -> None:
        self._filler.unlink()

    def fail(self) -> None:
        """What ext4 does when it meets an error: the journal ends, and nothing is written more."""
        run("mount", "-o", "remount,abort", self.path)

    def unmounted(self) -> bool:
        """Take it away, unless somebody has a file open there."""
        try:
            run("umount", self.path)
        except LocalFault:
            return False
        return True

    def end(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)
        subprocess.run(["losetup", "-d", self._device], check=False)


@contextmanager
def small_disk(folder: Path, megabytes: int = 24) -> Iterator[SmallDisk]:
    """A mounted one, until the block ends."""
    disk = SmallDisk(folder, megabytes)
    try:
        disk.mount()
        yield disk
    finally:
        disk.end()
