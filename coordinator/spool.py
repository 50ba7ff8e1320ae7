"""Sealed updates on disk: chunks go where they belong, and a whole update is durable by name.

An update that was half here at a crash starts again from nothing: its device offers it anyway.
"""

import os
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir, read_bounded, sync_dir
from qflare.messages import BLOB_MAX
from qflare.names import DeviceId, Digest


class Spool:
    """Updates by device and digest; two devices never share a file."""

    def __init__(self, directory: Path) -> None:
        self._dir = ensure_private_dir(directory)
        self._open: dict[tuple[DeviceId, Digest], int] = {}
        for part in self._dir.glob("*.part"):
            part.unlink()

    def start(self, device: DeviceId, transfer: Digest, size: int) -> None:
        """Make room for an update of `size` bytes; LocalFault when the disk is full."""
        self.drop(device, transfer)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(self._part(device, transfer), flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            os.close(descriptor)
            self._part(device, transfer).unlink()
            raise LocalFault(f"{self._dir}: {error.strerror}; make room there") from None
        self._open[device, transfer] = descriptor

    def write(self, device: DeviceId, transfer: Digest, offset: int, data: bytes) -> None:
        """Write a chunk; nothing happens if the update was dropped meanwhile."""
        descriptor = self._open.get((device, transfer))
        if descriptor is not None:
            os.pwrite(descriptor, data, offset)

    def finish(self, device: DeviceId, transfer: Digest) -> bytes | None:
        """Make an update durable and return its bytes; None if it was dropped meanwhile."""
        descriptor = self._open.pop((device, transfer), None)
        if descriptor is None:
            return None
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._part(device, transfer).replace(self.path(device, transfer))
        sync_dir(self._dir)
        return self.read(device, transfer)

    def read(self, device: DeviceId, transfer: Digest) -> bytes:
        """A whole update; LocalFault if it isn't there."""
        try:
            return read_bounded(self.path(device, transfer), BLOB_MAX)
        except FileNotFoundError:
            raise LocalFault(
                f"{self.path(device, transfer)} is missing: an accepted update was removed by hand"
            ) from None

    def drop(self, device: DeviceId, transfer: Digest) -> None:
        """Forget an update, whole or in parts."""
        descriptor = self._open.pop((device, transfer), None)
        if descriptor is not None:
            os.close(descriptor)
        self._part(device, transfer).unlink(missing_ok=True)
        self.path(device, transfer).unlink(missing_ok=True)

    def keep(self, updates: set[tuple[DeviceId, Digest]]) -> None:
        """Remove every whole update but these: leftovers of rounds that ended."""
        names = {self.path(device, digest).name for device, digest in updates}
        for file in self._dir.glob("*.update"):
            if file.name not in names:
                file.unlink()

    def path(self, device: DeviceId, transfer: Digest) -> Path:
        """Where the whole update is."""
        return self._dir / f"{device}.{transfer}.update"

    def _part(self, device: DeviceId, transfer: Digest) -> Path:
        return self._dir / f"{device}.{transfer}.part"
