"""The TFLite interpreter, from whichever package this machine has."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from qflare.faults import LocalFault

Interpreter = Any  # neither package ships types
_REMEDY = (
    "run: pip install 'qflare[edge]', or 'qflare[edge-tflite-runtime]' on Python 3.11 without "
    "ai-edge-litert"
)
_MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")


def open_interpreter(tflite: bytes, threads: int = 1) -> Interpreter:
    """Return an interpreter over a model.

    Raises ValueError or RuntimeError, as TFLite does, if the bytes are no model that it can run,
    and LocalFault if no interpreter is installed.
    """
    return _interpreter_class()(model_content=tflite, num_threads=threads)


def what_lacks() -> str:
    """What has to be installed here before anything can be trained; empty if nothing has.

    Imports none of it.
    """
    if find_spec("numpy") is None:
        return "numpy is not installed; run: pip install 'qflare[edge]'"
    if not any(find_spec(name.partition(".")[0]) for name in _MODULES):
        return f"no TFLite interpreter on this machine; {_REMEDY}"
    return ""


def _interpreter_class() -> Any:
    reasons = []
    for name in _MODULES:
        try:
            return import_module(name).Interpreter
        except ImportError as error:
            reasons.append(f"{name}: {error}")
    raise LocalFault(f"no TFLite interpreter on this machine; {_REMEDY} ({'; '.join(reasons)})")
