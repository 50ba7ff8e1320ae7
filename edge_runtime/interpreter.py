"""The TFLite interpreter, from whichever package this machine has."""

from importlib import import_module
from typing import Any

from qflare.faults import LocalFault

Interpreter = Any  # neither package ships types
_MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")


def open_interpreter(tflite: bytes, threads: int = 1) -> Interpreter:
    """Return an interpreter over a model.

    Raises ValueError or RuntimeError, as TFLite does, if the bytes are no model that it can run,
    and LocalFault if no interpreter is installed.
    """
    return _interpreter_class()(model_content=tflite, num_threads=threads)


def _interpreter_class() -> Any:
    reasons = []
    for name in _MODULES:
        try:
            return import_module(name).Interpreter
        except ImportError as error:
            reasons.append(f"{name}: {error}")
    raise LocalFault(
        "no TFLite interpreter on this machine; run: pip install 'qflare[edge]', or "
        "'qflare[edge-tflite-runtime]' on Python 3.11 without ai-edge-litert "
        f"({'; '.join(reasons)})"
    )
