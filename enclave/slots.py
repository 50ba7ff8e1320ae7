"""The sealed state on disk, in two files that are written in turn and never opened again.

An enclave that is locked down can neither open nor rename. So both files are opened at the start;
each holds a number, a length, a digest and the state, and the whole one with the higher number
counts. A write that breaks off at any byte leaves the other file as it was.
"""

import hashlib
import os
import struct
from pathlib import Path

from qflare.faults import LocalFault

NAMES = ("enclave.state.a", "enclave.state.b")
_HEAD = struct.Struct(">8sQQ32s")
_MAGIC = b"QFLARE1\n"


class Slots:
    """Both files, open; `state` is what was found, None before the first write."""

    def __init__(self, directory: Path) -> None:
        """Open them, and make them (0600) if they aren't there; raise OSError.

        Raises LocalFault if both hold something and neither is whole: no crash leaves that.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.files = [os.open(directory / name, flags, 0o600) for name in NAMES]
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(place)
        os.close(place)
        found = [_read(file) for file in self.files]
        self._number, self.state = max(found, key=lambda one: one[0])
        if self.state is None and all(os.fstat(file).st_size for file in self.files):
            raise LocalFault(f"both files of the state in {directory} are damaged; move them away")

    def write(self, state: bytes) -> None:
        """Make it durable; raise OSError if it isn't."""
        self._number += 1
        digest = hashlib.sha256(struct.pack(">Q", self._number) + state).digest()
        head = _HEAD.pack(_MAGIC, self._number, len(state), digest)
        file = self.files[self._number % 2]
        _write(file, head, 0)
        _write(file, state, len(head))
        os.ftruncate(file, len(head) + len(state))
        os.fsync(file)


def read(directory: Path) -> bytes | None:
    """The state as it is on disk; None if there is none."""
    files = [os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC) for name in NAMES]
    try:
        return max((_read(file) for file in files), key=lambda one: one[0])[1]
    finally:
        for file in files:
            os.close(file)


def _write(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def _read(file: int) -> tuple[int, bytes | None]:
    size = os.fstat(file).st_size
    data = b"".join(iter(lambda: os.read(file, 1 << 20), b""))
    if size < _HEAD.size:
        return 0, None
    magic, number, length, digest = _HEAD.unpack_from(data)
    state = data[_HEAD.size :]
    whole = hashlib.sha256(data[8:16] + state).digest() == digest
    return (number, state) if magic == _MAGIC and length == len(state) and whole else (0, None)
