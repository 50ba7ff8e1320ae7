"""From a TensorFlow module to TFLite bytes with builtin operators alone."""

import re
import tempfile
from typing import Any, Final

import tensorflow as tf

from qflare.authoring.quiet import quiet
from qflare.authoring.unsupported import Unsupported
from qflare.faults import LocalFault

_OPERATOR: Final = re.compile(r"'?tf\.(\w+)'? op is neither a custom op nor a flex op")
_PLACE: Final = re.compile(r'fused\["[^"]*", "(?:gradient_tape/)?([^"@/]+)/[^"@]*@')


def convert(module: Any) -> bytes:
    """The .tflite of a module with `signatures()`.

    Raises Unsupported, which names the operator and, if it can be told, the layer, when something
    has no builtin kernel.
    """
    signatures = module.signatures()
    with tempfile.TemporaryDirectory(prefix="qflare-build-") as folder, quiet():
        # With custom gradients kept, the saved graph would hold operators that nobody calls.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=signatures, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.experimental_enable_resource_variables = True
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return bytes(converter.convert())
        except Exception as error:
            raise _explained(str(error)) from error


def _explained(text: str) -> LocalFault:
    """What the converter's pages of text come to."""
    operators = sorted(set(_OPERATOR.findall(text)))
    if not operators:
        operators = sorted(set(re.findall(r"^\s*tf\.(\w+)", text, re.MULTILINE)))
    if not operators:
        return LocalFault(f"TensorFlow can't convert the model: {text.strip()[:500]}")
    found = _PLACE.search(text)  # a name scope: `prepare` opens one for each layer
    where = f" (in the layer {found[1]})" if found else ""
    return Unsupported(
        f"the operator {', '.join(operators)}{where}",
        "it has no builtin kernel; docs/models.md lists the layers that train",
    )
