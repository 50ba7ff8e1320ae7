"""What the frozen part of a model makes of each example, computed once and kept in a scratch file.

With a frozen backbone nearly all the time of a training step would go into numbers that are the
same in every epoch and round. The file has no name, so that nobody finds it again, whole or torn:
it is gone with the process, or with the power.
"""

import math
import os
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
    """One row of float32 for each example, in a file without a name."""

    def __init__(self, file: int, row_bytes: int, rows: int) -> None:
        """Takes over the open file; it is closed when nobody has it any more."""
        self.file, self.row_bytes, self.rows = file, row_bytes, rows
        weakref.finalize(self, os.close, file)


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
            piece = view[at * size : (at + 1) * size]
            if os.preadv(self._features.file, (piece,), row * size) != size:
                raise LocalFault("the file of features became shorter; start again")


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
        made = FeatureFile(_unnamed(scratch, size), row_bytes, len(raw))
    except OSError:
        return None
    computed = Computed(engine, raw)
    x = np.zeros((contract.batch, *shape), np.float32)
    for start in range(0, len(raw), contract.batch):
        pace.step()
        rows = np.arange(start, min(start + contract.batch, len(raw)))
        computed.read(rows, x, None)
        try:
            _write(made.file, x[: len(rows)].data.cast("B"))
        except OSError:  # the disk is full: training is slower, and goes on
            return None
    return made


def _unnamed(scratch: Path, size: int) -> int:
    """An open file of the process's own."""
    if size <= IN_MEMORY_MAX:
        return os.memfd_create("features", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return os.dup(file.fileno())


def _write(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]
