"""Make the tiny models beside this file.

    python -m tests.models.make [--check]

The output does not depend on the machine or the day. Needs TensorFlow; the tests that use the
files need only an interpreter.
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from qflare.host.model import parse_manifest
from qflare.zoo.formula import SINE_1, golden_inputs, golden_weights
from tests.models.tiny import FORMS, INPUTS, MOMENTUM, Form, Tiny

FOLDER: Final = Path(__file__).parent
STEPS: Final = 5
LEARNING_RATE: Final = 0.1


def build(form: Form) -> bytes:
    """The whole model file."""
    module = Tiny(form)
    initial = [w.numpy() for w in module.weights]
    signatures = module.signatures()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=signatures, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.experimental_enable_resource_variables = True
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        graph = schema.ModelT.InitFromPackedBuf(converter.convert(), 0)
    _shorten(graph)
    text = json.dumps(_manifest(module, signatures), separators=(",", ":")).encode()
    entries = {"qflare-model": text}
    for key, values in zip(module.keys, initial, strict=True):
        entries[f"qflare-{key}"] = values.astype("<f4").tobytes()
    for name, content in entries.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(content, np.uint8)
        entry.name, entry.buffer = name, len(graph.buffers)
        graph.buffers.append(buffer)
        graph.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _shorten(graph: Any) -> None:
    """Leave out names that nothing needs, and what the converter says of itself."""
    graph.metadata, graph.description = [], None
    for subgraph in graph.subgraphs:
        subgraph.name = None
        for tensor in subgraph.tensors:
            tensor.name = None


def _manifest(module: Tiny, signatures: dict[str, Any]) -> dict[str, Any]:
    form = module.form
    named = [
        {"name": name, "shape": [int(side) for side in w.shape]}
        for name, w in zip(module.names, module.weights, strict=True)
    ]
    losses = {"classification": "cross_entropy", "multilabel": "binary_cross_entropy"}
    labelled = form.task in losses
    says: dict[str, Any] = {
        "format": "qflare-model/2",
        "name": form.name,
        "version": 1,
        "task": form.task,
        "loss": losses.get(form.task, "mse"),
        "input": {
            "shape": [INPUTS],
            "channels": [f"c{i}" for i in range(INPUTS)],
            "units": ["1"] * INPUTS,
            "mean": [0.5] * INPUTS,
            "scale": [2.0] * INPUTS,
        },
        "output": [form.outputs],
        "classes": [f"class{i}" for i in range(form.outputs)] if labelled else [],
        "batch": form.batch,
        "optimiser": {"name": "momentum", "momentum": MOMENTUM},
        "parameters": named[: module.federated],
        "personal": named[module.federated :],
        "frozen": INPUTS * form.prefix,
        "noise": form.hidden if form.dropout else 0,
        "private": form.private,
        "features": [form.prefix] if form.prefix else None,
        "licence": "Apache-2.0",
        "provenance": "",
        "made_by": "python -m tests.models.make",
        "golden": {
            "formula": SINE_1,
            "learning_rate": LEARNING_RATE,
            "steps": 1,
            "losses": [0.0],
            "evaluate": {"loss_sum": 0.0, "n": 1.0, "correct": 0.0},
            "tolerance": 1e-4,
        },
    }
    says["golden"] |= _golden(module, signatures, says)
    return says


def _golden(module: Tiny, signatures: dict[str, Any], says: dict[str, Any]) -> dict[str, Any]:
    """What TensorFlow makes of the golden batch."""
    inputs = {k: tf.constant(v) for k, v in golden_inputs(_parsed(says)).items()}
    for part in (slice(0, module.federated), slice(module.federated, None)):
        mine = module.weights[part]
        start = golden_weights(np.concatenate([np.ravel(w) for w in mine] or [np.zeros(0)]))
        for w in mine:
            size = math.prod(w.shape)
            w.assign(start[:size].reshape(w.shape))
            start = start[size:]
    for anchor, w in zip(module.anchors, module.weights, strict=False):
        anchor.assign(w)
    if module.form.prefix:
        inputs["x"] = signatures["features"](x=inputs["x"])["f"]
    rate = tf.constant([LEARNING_RATE])
    losses = [float(signatures["train"](**inputs, lr=rate)["loss"][0]) for _ in range(STEPS)]
    examples = {k: v for k, v in inputs.items() if k in ("x", "y", "m")}
    after = {k: float(np.sum(v)) for k, v in signatures["evaluate"](**examples).items()}
    return {
        "steps": STEPS,
        "losses": [round(loss, 6) for loss in losses],
        "evaluate": {
            "loss_sum": round(after["loss_sum"], 6),
            "n": after["examples"],
            "correct": after["correct"],
        },
    }


def _parsed(says: dict[str, Any]) -> Any:
    return parse_manifest(json.dumps(says).encode())


def main(argv: list[str]) -> int:
    different = 0
    for form in FORMS:
        path, content = FOLDER / f"{form.name}.tflite", build(form)
        if "--check" not in argv:
            path.write_bytes(content)
        same = path.is_file() and path.read_bytes() == content
        different += not same
        print(f"{len(content):8}  {path.name}{'' if same else '  DIFFERS'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
