"""One TFLite interpreter over one model, and the arrays that go into it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.interpreter import Interpreter, open_interpreter
from edge_runtime.sources.base import Examples, Rows, Values
from qflare.faults import LocalFault
from qflare.tensors import FloatVector


class Batch:
    """The arrays of one batch, filled anew for each step.

    x, y and mask are what the signatures take; the mask is 1 for each example that counts, and the
    others are zeros. y is None if the model's examples have no labels.
    """

    def __init__(self, contract: ModelContract) -> None:
        batch, says = contract.batch, contract.manifest
        dtype = "float32" if contract.features_shape else says.input.dtype
        self.x: Values = np.zeros(
            (batch, *(contract.features_shape or contract.input_shape)), dtype
        )
        self.y: Values | None = None
        if contract.label_shape is not None:
            self.y = np.zeros((batch, *contract.label_shape), contract.label_dtype)
        self.mask = np.zeros(batch, np.float32)

    def fill(self, examples: Examples, rows: Rows) -> None:
        """Take these examples, at most a batch of them."""
        count = len(rows)
        examples.read(rows, self.x, self.y)
        self.mask[:count], self.mask[count:] = 1.0, 0.0
        self.x[count:] = 0
        if self.y is not None:
            self.y[count:] = 0

    @property
    def inputs(self) -> dict[str, Values]:
        """The arrays by the names that the signatures give them."""
        found = {"x": self.x, "m": self.mask}
        return found if self.y is None else found | {"y": self.y}


class Engine:
    """The interpreter, its signatures and its weights, for one call at a time.

    Variables belong to the interpreter: its signatures share them, and they stay until they are set
    again. So `load` is always the first call of a computation.
    """

    def __init__(self, contract: ModelContract, tflite: bytes, threads: int = 1) -> None:
        """`contract` must come from these very bytes, by `parse_contract`."""
        self.contract = contract
        self.call = _Signatures(open_interpreter(tflite, threads))
        self._w = [f"w{i}" for i in range(len(contract.spec.tensors))]
        self._p = (
            [f"p{i}" for i in range(len(contract.personal.tensors))] if (contract.personal) else []
        )
        self._busy = threading.Lock()
        self._process = os.getpid()

    def load(self, weights: FloatVector, personal: FloatVector) -> None:
        """Set all parameters, and forget the optimiser's state: both are the last call's."""
        spec = self.contract.spec
        parts = dict(
            zip(self._w, spec.split(np.asarray(weights, np.float32)).values(), strict=True)
        )
        if self.contract.personal:
            mine = self.contract.personal.split(np.asarray(personal, np.float32))
            parts |= dict(zip(self._p, mine.values(), strict=True))
        self.call["set_weights"](**parts)
        self.call["reset"]()

    def weights(self) -> tuple[FloatVector, FloatVector]:
        """The federated and the personal parameters, flat."""
        parts = self.call["get_weights"]()
        flat = [
            np.concatenate([parts[key].ravel() for key in keys]) if keys else _NOTHING
            for keys in (self._w, self._p)
        ]
        return flat[0], flat[1]

    def initial_personal(self) -> FloatVector:
        """What the model file starts the personal parameters from."""
        return np.frombuffer(self.contract.initial_personal, "<f4").astype(np.float32)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raise LocalFault if a call is going on, or if this is a copy that a fork made.

        TFLite would silently compute NaN, crash, or wait for threads that the copy hasn't got.
        """
        if os.getpid() != self._process:
            raise LocalFault("a Trainer doesn't survive a fork; make one in the new process")
        if not self._busy.acquire(blocking=False):
            raise LocalFault("a Trainer serves one call at a time; make one for each thread")
        try:
            yield
        finally:
            self._busy.release()


class _Signatures(dict[str, Any]):
    """The graph's functions by name. Each takes memory from its first use on."""

    def __init__(self, interpreter: Interpreter) -> None:
        super().__init__()
        self._interpreter = interpreter

    def __missing__(self, name: str) -> Any:
        self[name] = self._interpreter.get_signature_runner(name)
        return self[name]


_NOTHING: NDArray[np.float32] = np.zeros(0, np.float32)
