"""Make the watch CNN's file: the trainable .tflite that holds its manifest and initial weights.

    python -m qflare.zoo.watch_cnn.author -o watch_cnn.tflite [--check]

The output does not depend on the machine or the day: a second run gives the same bytes. Needs
the `authoring` extra; a device needs none of this, only the file.
"""

import argparse
import json
import os
import sys
import tempfile
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import flatbuffers
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from qflare.zoo.formula import SINE_1
from qflare.zoo.watch_cnn import shape
from qflare.zoo.watch_cnn.golden import GOLDEN_STEPS, LEARNING_RATE, oracle
from qflare.zoo.watch_cnn.model import WatchCnn

SEED = 20
COMMAND = "python -m qflare.zoo.watch_cnn.author -o watch_cnn.tflite"


def initial_weights() -> list[NDArray[np.float32]]:
    """He-normal kernels (He et al. 2015, arXiv:1502.01852), a Glorot-like head, no biases."""
    random = np.random.Generator(np.random.PCG64(SEED))
    weights = []
    for name, dims in shape.PARAMETERS:
        gain = 1.0 if name.startswith("head") else 2.0
        noise = random.standard_normal(dims) if len(dims) == 2 else np.zeros(dims)
        weights.append((noise * sqrt(gain / dims[0])).astype(np.float32))
    return weights


def convert(weights: list[NDArray[np.float32]]) -> bytes:
    """Return the .tflite with builtin operators only."""
    module = WatchCnn(weights)
    signatures = module.signatures()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=signatures, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.experimental_enable_resource_variables = True
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def manifest(initial: NDArray[np.float32]) -> dict[str, Any]:
    """What a device must know to use the file and to check that it behaves."""
    losses, after = oracle(initial)
    return {
        "format": "qflare-model/2",
        "name": shape.NAME,
        "version": shape.VERSION,
        "task": "classification",
        "loss": "cross_entropy",
        "input": {
            "shape": [shape.WINDOW, shape.CHANNELS],
            "dtype": "float32",
            "rate_hz": shape.RATE_HZ,
            "channels": list(shape.CHANNEL_NAMES),
            "units": list(shape.CHANNEL_UNITS),
            "mean": list(shape.MEAN),
            "scale": list(shape.SCALE),
        },
        "output": [shape.CLASSES],
        "classes": list(shape.CLASS_NAMES),
        "batch": shape.BATCH,
        "optimiser": {"name": "momentum", "momentum": shape.MOMENTUM},
        "parameters": [{"name": name, "shape": list(dims)} for name, dims in shape.PARAMETERS],
        "golden": {
            "formula": SINE_1,
            "learning_rate": LEARNING_RATE,
            "steps": GOLDEN_STEPS,
            "losses": losses,
            "evaluate": after,
            "tolerance": 1e-4,
        },
        "licence": "Apache-2.0",
        "provenance": "weights are drawn from a fixed seed; the input's mean and scale are of the "
        "training parts of the recordings of Burns et al. 2018, arXiv:1802.01489",
        "made_by": COMMAND,
    }


def build() -> bytes:
    """The model file: the graph, with the manifest and the initial weights in its metadata."""
    weights = initial_weights()
    graph = schema.ModelT.InitFromPackedBuf(convert(weights), 0)
    graph.metadata = []
    flat = np.concatenate([w.ravel() for w in weights])
    entries = {"qflare-model": json.dumps(manifest(flat), indent=1).encode()}
    for i, w in enumerate(weights):
        entries[f"qflare-w{i}"] = w.astype("<f4").tobytes()
    for name, content in entries.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(content, np.uint8)
        entry.name, entry.buffer = name, len(graph.buffers)
        graph.buffers.append(buffer)
        graph.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="author", description="Make the watch CNN's file.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.tflite")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the file differs"
    )
    args = parser.parse_args(argv)
    content, path = build(), args.output
    if not args.check:
        path.write_bytes(content)
    same = path.is_file() and path.read_bytes() == content
    print(f"{sha256(content).hexdigest()}  {path}{'' if same else '  DIFFERS'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
