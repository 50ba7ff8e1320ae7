"""A disk that remembers: every write and every flush that the kernel sends it, in order.

A FUSE file system of one file, `disk`, which a loop device stands on, and of `mark`, whose writes
go into the same log: so a program can note what it was told, between the writes that were for it.
The protocol is the kernel's own, over /dev/fuse (include/uapi/linux/fuse.h); requests are served
one at a time, so that the log's order is the order in which writes were completed.

`python -m benchmarks.power_loss.recorder IMAGE LOG MOUNTPOINT`; it ends when it is unmounted.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

from qflare.faults import LocalFault

_MAX_WRITE = 128 * 1024
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_INIT = struct.Struct("<IIIIHHIIHHII24x")
_IO = struct.Struct("<QQIIQII")
_STATFS = struct.Struct("<QQQQQIIII24x")
_RECORD = struct.Struct("<BQI")
_DIRECT_IO = 1


class _Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


class Kind(IntEnum):
    """What a record of the log is."""

    WRITE = 1
    FLUSH = 2
    MARK = 3


@dataclass(frozen=True)
class Record:
    """One request, after it was completed."""

    kind: Kind
    offset: int
    data: bytes


def read_log(path: Path) -> Iterator[Record]:
    """All whole records."""
    with path.open("rb") as file:
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            kind, offset, size = _RECORD.unpack(head)
            data = file.read(size)
            if len(data) == size:
                yield Record(Kind(kind), offset, data)


class _Refused(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


_FILES = {b"disk": 2, b"mark": 3}


class Recorder:
    """Serves one mount."""

    def __init__(self, image: BinaryIO, log: BinaryIO) -> None:
        self._image, self._log = image, log
        self._size = os.fstat(image.fileno()).st_size

    def serve(self, device: int) -> None:
        """Until the kernel says that nothing is mounted any more."""
        while True:
            try:
                request = os.read(device, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                raise
            _, op, unique, node, *_ = _IN.unpack_from(request)
            if op in (_Op.FORGET, _Op.BATCH_FORGET, _Op.INTERRUPT):
                continue
            try:
                answer, failed = self._answer(op, node, request[_IN.size :]), 0
            except _Refused as refused:
                answer, failed = b"", -refused.number
            os.write(device, _OUT.pack(_OUT.size + len(answer), failed, unique) + answer)

    def _answer(self, op: int, node: int, body: bytes) -> bytes:
        match op:
            case _Op.INIT:
                return _INIT.pack(7, 31, 0, 0, 16, 12, _MAX_WRITE, 1, 0, 0, 0, 0)
            case _Op.LOOKUP:
                found = _FILES.get(body.rstrip(b"\0"))
                if found is None:
                    raise _Refused(errno.ENOENT)
                return _ENTRY.pack(found, 0, 60, 60, 0, 0) + self._attributes(found)
            case _Op.GETATTR | _Op.SETATTR:
                return struct.pack("<QII", 60, 0, 0) + self._attributes(node)
            case _Op.OPEN | _Op.OPENDIR:
                return struct.pack("<QII", node, _DIRECT_IO if node != 1 else 0, 0)
            case _Op.READ:
                _, offset, size, *_ = _IO.unpack_from(body)
                return os.pread(self._image.fileno(), size, offset) if node == 2 else b""
            case _Op.WRITE:
                return self._write(node, body)
            case _Op.FSYNC:
                if node == 2:
                    self._record(Kind.FLUSH, 0, b"")
                return b""
            case _Op.STATFS:
                return _STATFS.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0)
            case _Op.FLUSH | _Op.RELEASE | _Op.RELEASEDIR | _Op.DESTROY:
                return b""
        raise _Refused(errno.ENOSYS)

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _IO.unpack_from(body)
        data = body[_IO.size : _IO.size + size]
        if node == 2:
            os.pwrite(self._image.fileno(), data, offset)
            self._record(Kind.WRITE, offset, data)
        else:
            self._record(Kind.MARK, 0, data)
        return struct.pack("<II", size, 0)

    def _record(self, kind: Kind, offset: int, data: bytes) -> None:
        self._log.write(_RECORD.pack(kind, offset, len(data)) + data)
        self._log.flush()

    def _attributes(self, node: int) -> bytes:
        mode = 0o040700 if node == 1 else 0o100600
        size = self._size if node == 2 else 0
        times = (0,) * 6
        return _ATTR.pack(node, size, size // 512, *times, mode, 1, 0, 0, 0, 4096, 0)


def mount(device: int, at: Path) -> None:
    """mount(2); raise LocalFault if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"recorder", os.fsencode(at), b"fuse", 0, options):
        raise LocalFault(f"FUSE can't be mounted: {os.strerror(ctypes.get_errno())}")


def main() -> int:
    image, log, at = map(Path, sys.argv[1:4])
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mount(device, at)
    with image.open("r+b") as disk, log.open("wb") as records:
        Recorder(disk, records).serve(device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
