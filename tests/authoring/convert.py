"""Run one function in the interpreter, by way of the converter: builtin operators or an error."""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edge_runtime.interpreter import open_interpreter


def converted(call: Callable[..., Sequence[Any]], *inputs: np.ndarray) -> bytes:
    """The model file of `call`, whose outputs are a list of tensors."""

    class Module(tf.Module):
        @tf.function
        def run(self, **named: Any) -> dict[str, Any]:
            found = call(*(named[f"i{n}"] for n in range(len(inputs))))
            return {f"o{n}": value + 0.0 for n, value in enumerate(found)}

    module = Module()
    specs = {f"i{n}": tf.TensorSpec(i.shape, i.dtype, name=f"i{n}") for n, i in enumerate(inputs)}
    signature = module.run.get_concrete_function(**specs)
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures={"run": signature}, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["run"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def run_in_interpreter(call: Callable[..., Sequence[Any]], *inputs: np.ndarray) -> list[np.ndarray]:
    """Convert `call` and run it once."""
    interpreter = open_interpreter(converted(call, *inputs))
    found = interpreter.get_signature_runner("run")(
        **{f"i{n}": value for n, value in enumerate(inputs)}
    )
    return [found[f"o{n}"] for n in range(len(found))]


def operators(call: Callable[..., Sequence[Any]], *inputs: np.ndarray) -> set[str]:
    """The names of the operators that `call` becomes."""
    details = open_interpreter(converted(call, *inputs))._get_ops_details()
    return {str(one["op_name"]) for one in details} - {"DELEGATE"}
