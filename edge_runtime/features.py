"""What the frozen part of a model makes of each example, computed once and kept in a scratch file.

With a frozen backbone nearly all the time of a training step would go into numbers that are the
same in every epoch and round. The file has no name, so that nobody finds it again, whole or torn:
it is gone with the process, or with the power. On a disk it is under a key that is only in memory,
for flash memory keeps what was in removed files, and features tell much of what they were made of.
"""

import math
import os
import secrets
import tempfile
import weakref
from pathlib import Path
from typing import Final

import numpy as np

from edge_runtime.engine import Engine
from edge_runtime.pacing import Pace
from edge_runtime.sources.base import Examples, Rows, Values
from edge_runtime.storage.reserve import free_bytes
from qflare.faults import LocalFault
from qflare.host.files import write_at

IN_MEMORY_MAX: Final = 1024 * 1024  # bytes
ON_DISK_MAX: Final = 4 * 1024**3


class Computed:
    """Features computed as they are asked for, by an engine that is the caller's alone."""

    def __init__(self, engine: Engine, raw: Examples) -> None:
        contract = engine.contract
        self._engine, self._raw = engine, raw
        self._x: Values = np.zeros(
            (contract.batch, *contract.input_shape), contract.manifest.input.dtype
        )

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        """At most a batch of rows."""
        count = len(rows)
        self._raw.read(rows, None if x is None else self._x, y)
        if x is not None:
            self._x[count:] = 0
            x[:count] = self._engine.call["features"](x=self._x)["f"][:count]


class FeatureFile:
    """One row of float32 for each example, in a file without a name. A row is written once."""

    def __init__(self, scratch: Path, row_bytes: int, rows: int) -> None:
        """In memory if it is small, else in `scratch`; OSError if that refuses."""
        self.row_bytes, self.rows = row_bytes, rows
        small = rows * row_bytes <= IN_MEMORY_MAX
        self._key = None if small else secrets.token_bytes(32)
        self._file = os.memfd_create("features", os.MFD_CLOEXEC) if small else _unnamed(scratch)
        weakref.finalize(self, os.close, self._file)

    def write(self, first: int, data: memoryview) -> None:
        """Keep rows from `first` on; OSError if the disk refuses."""
        size = self.row_bytes
        for row in range(len(data) // size):
            piece = data[row * size : (row + 1) * size]
            write_at(self._file, self._crypt(first + row, piece), (first + row) * size)

    def read_into(self, row: int, view: memoryview) -> None:
        """One row, as it was written; LocalFault if it isn't there."""
        if os.preadv(self._file, (view,), row * self.row_bytes) != self.row_bytes:
            raise LocalFault("the file of features became shorter; start again")
        if self._key is not None:
            view[:] = self._crypt(row, view)

    def _crypt(self, row: int, data: memoryview) -> bytes | memoryview:
        """ChaCha20 (RFC 8439), the block counter from 0 and the row as nonce: its own inverse."""
        if self._key is None:
            return data
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        nonce = bytes(8) + row.to_bytes(8, "little")
        return Cipher(algorithms.ChaCha20(self._key, nonce), None).encryptor().update(data)


class Kept:
    """Features out of a file, with the labels of the examples that they were made of."""

    def __init__(self, raw: Examples, features: FeatureFile) -> None:
        if len(raw) != features.rows:
            raise LocalFault("these features are of other examples; compute them again")
        self._raw, self._features = raw, features

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        self._raw.read(rows, None, y)
        if x is None:
            return
        view, size = x.data.cast("B"), self._features.row_bytes
        for at, row in enumerate(rows.tolist()):
            self._features.read_into(row, view[at * size : (at + 1) * size])


def compute_features(
    engine: Engine, raw: Examples, scratch: Path, pace: Pace
) -> FeatureFile | None:
    """Every example's features: in memory if they are small, else in the directory `scratch`.

    None if there is no room for them. The engine must be the caller's alone; raises what `pace`
    raises.
    """
    contract = engine.contract
    shape = contract.features_shape or ()
    row_bytes = 4 * math.prod(shape)
    size = len(raw) * row_bytes
    try:
        # Half of what is free stays for the device's real job, and for the round's own writes.
        room = ON_DISK_MAX if size <= IN_MEMORY_MAX else free_bytes(scratch) // 2
        if size > min(ON_DISK_MAX, room):
            return None
        made = FeatureFile(scratch, row_bytes, len(raw))
    except OSError:
        return None
    computed = Computed(engine, raw)
    x = np.zeros((contract.batch, *shape), np.float32)
    for start in range(0, len(raw), contract.batch):
        pace.step()
        rows = np.arange(start, min(start + contract.batch, len(raw)))
        computed.read(rows, x, None)
        try:
            made.write(start, x[: len(rows)].data.cast("B"))
        except OSError:  # the disk is full: training is slower, and goes on
            return None
    return made


def _unnamed(scratch: Path) -> int:
    """An open file of the process's own."""
    with tempfile.TemporaryFile(dir=scratch) as file:
        return os.dup(file.fileno())
