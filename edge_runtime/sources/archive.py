"""The arrays of an uncompressed .npz, read row by row where they lie in the file.

An .npz is a ZIP archive of .npy files. Uncompressed, each array is one piece of the file, so that
`pread` finds any row; memory doesn't grow with the file, as it would if it were loaded, and a file
that is cut short gives an error, where a mapped one would end the process.
"""

import io
import math
import os
import struct
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy

from edge_runtime.sources.base import Rows, Values
from edge_runtime.sources.folder import Identity
from qflare.faults import LocalFault

HEADER_MAX: Final = 64 * 1024
_MEMBERS_MAX: Final = 1024
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # signature … lengths of name and extra field


@dataclass(frozen=True, slots=True)
class Member:
    """One array: where its first row is, and what a row looks like."""

    name: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]


class Archive:
    """An open .npz file; closed when nobody has it any more."""

    def __init__(self, path: Path) -> None:
        """Raise OSError if it can't be opened."""
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self.identity = Identity.of(os.fstat(self._file))

    def members(self) -> dict[str, Member]:
        """The arrays in it, by name; LocalFault, OSError or ValueError if it is no such file."""
        with open(self._file, "rb", closefd=False) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > _MEMBERS_MAX:
                raise ValueError(f"{len(entries)} arrays, at most {_MEMBERS_MAX}")
            found = [self._member(entry) for entry in entries if entry.filename.endswith(".npy")]
        return {member.name: member for member in found}

    def _member(self, entry: zipfile.ZipInfo) -> Member:
        name = entry.filename.removesuffix(".npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise LocalFault(
                f"{self.path} is compressed and can't be read row by row; write it with np.savez, "
                "not np.savez_compressed"
            )
        head = self._read(entry.header_offset, _LOCAL_HEADER.size + 4)[: _LOCAL_HEADER.size]
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(head)
        if signature != b"PK\3\4" or entry.flag_bits & 1:
            raise ValueError(f"{name[:40]} is damaged or encrypted")
        start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + entry.file_size > self.identity.size:
            raise ValueError(f"{name[:40]} goes on after the end of the file")
        header = io.BytesIO(self._read(start, min(HEADER_MAX, entry.file_size)))
        version = npy.read_magic(header)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(header)
        if fortran and len(shape) > 1:
            raise ValueError(f"{name[:40]} lies column by column; use np.ascontiguousarray")
        member = Member(name, start + header.tell(), dtype.str, shape)
        if dtype.hasobject or not shape:
            raise ValueError(f"{name[:40]} is no array of numbers")
        if header.tell() + len(member) * member.row_bytes != entry.file_size:
            raise ValueError(f"{name[:40]} has another size than it says")
        return member

    def _read(self, offset: int, size: int) -> bytes:
        found = os.pread(self._file, size, offset)
        if len(found) != size:
            raise EOFError("the file ends too early")
        return found

    def rows(self, member: Member, first: int, out: Values) -> None:
        """Fill `out` (C-contiguous, the member's dtype) with rows from `first` on."""
        self._fill(out.data.cast("B"), member.offset + first * member.row_bytes)

    def pick(self, member: Member, rows: Rows, out: Values) -> None:
        """Fill out[:len(rows)] with these rows."""
        size, start = member.row_bytes, member.offset
        view = out.data.cast("B")
        file, preadv = self._file, os.preadv
        at = 0
        for row in rows.tolist():
            if preadv(file, (view[at : at + size],), start + row * size) != size:
                self._fill(view[at : at + size], start + row * size)
            at += size

    def _fill(self, view: Any, offset: int) -> None:
        done = 0
        while done < len(view):
            got = os.preadv(self._file, (view[done:],), offset + done)
            if got <= 0:
                raise LocalFault(f"{self.path} became shorter while it was read; restore it")
            done += got

    def verify_unchanged(self) -> None:
        """Raise LocalFault if somebody wrote to the file since it was opened."""
        if Identity.of(os.fstat(self._file)) != self.identity:
            raise LocalFault(
                f"{self.path} was changed while it was read; write a new file and rename it"
            )
