"""The active model in an interpreter: physical units in, outputs out, a batch at a time."""

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.interpreter import open_interpreter
from edge_runtime.slots import Slot, read_slot
from qflare.faults import LocalFault, PeerFault
from qflare.host.model import Manifest, read_model

Rows = NDArray[np.float32] | NDArray[np.int32]
QUICK_S: Final = 0.001  # of one run: less than it takes to wake another thread some times
_TRIALS: Final = 3


class Engine:
    """One model, ready to run; for one thread at a time. Nothing in it changes but memory."""

    def __init__(self, slot: Slot, threads: int = 1) -> None:
        """Raise LocalFault if the slot is damaged, or holds what TFLite can't run here."""
        self.slot = slot
        file = slot.read()
        try:
            self.manifest: Manifest = read_model(file).manifest
            self._interpreter: Any = open_interpreter(file, threads)
            self._interpreter.allocate_tensors()
            (x,), (y,) = (
                self._interpreter.get_input_details(),
                self._interpreter.get_output_details(),
            )
        except (PeerFault, RuntimeError, ValueError) as error:
            raise LocalFault(f"{slot.directory}: TFLite can't run the model: {error}") from None
        self.row_shape = tuple(self.manifest.input.shape)
        self.dtype: Any = np.dtype(self.manifest.input.dtype)
        self.batch = self.manifest.batch
        if tuple(x["shape"]) != (self.batch, *self.row_shape) or x["dtype"] != self.dtype.type:
            raise LocalFault(f"{slot.directory}: the model's input isn't what its manifest says")
        self._x, self._y = x["index"], y["index"]
        self._scaled = self.manifest.input.dtype == "float32"
        self._mean = np.asarray(self.manifest.input.mean, np.float32)
        self._scale = np.asarray(self.manifest.input.scale, np.float32)
        self._buffer: Rows = np.zeros((self.batch, *self.row_shape), self.dtype)
        self.seconds = min(self._timed() for _ in range(_TRIALS))

    @property
    def quick(self) -> bool:
        """A run is so short that whoever calls may as well wait for it."""
        return self.seconds < QUICK_S

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape)) * 4

    def run(self, parts: list[Rows]) -> NDArray[np.float32]:
        """The outputs (n, *output) of the rows in all parts, n <= batch, in order.

        Each part is (some, *input shape) in the manifest's units.
        """
        buffer, at = self._buffer, 0
        for part in parts:
            buffer[at : at + len(part)] = part
            at += len(part)
        if self._scaled:
            rows = buffer[:at]
            np.subtract(rows, self._mean, out=rows)
            np.divide(rows, self._scale, out=rows)
        buffer[at:] = 0
        self._interpreter.set_tensor(self._x, buffer)
        self._interpreter.invoke()
        output: NDArray[np.float32] = self._interpreter.get_tensor(self._y)[:at]
        return output

    def _timed(self) -> float:
        began = time.perf_counter()
        self.run([])
        return time.perf_counter() - began


def open_engine(link: Path, threads: int = 1) -> Engine:
    """The model behind the stable path; LocalFault if there is none that can be run."""
    return Engine(read_slot(link), threads)
