"""The TFLite interpreter of the developer's machine: the devices' own, or TensorFlow's."""

from typing import Any


def open_interpreter(tflite: bytes) -> Any:
    """An interpreter over a model, with one thread as on a device."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter
    return Interpreter(model_content=tflite, num_threads=1)
