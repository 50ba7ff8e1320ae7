"""Make the watch CNN's files: the trainable .tflite, its initial weights, its manifest.

    python -m qflare.zoo.watch_cnn.author -o watch_cnn.tflite [--check]

The output does not depend on the machine or the day: a second run gives the same bytes. Needs
the `authoring` extra; a device needs none of this, only the files.
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

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

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


def manifest(tflite: bytes, flat: bytes) -> dict[str, Any]:
    """What a device must know to use the file and to check that it behaves."""
    losses, after = oracle()
    return {
        "format": "qflare-model/1",
        "name": shape.NAME,
        "version": shape.VERSION,
        "tflite": {"file": "watch_cnn.tflite", "bytes": len(tflite), "sha256": _hex(tflite)},
        "weights": {"file": "watch_cnn.weights.bin", "bytes": len(flat), "sha256": _hex(flat)},
        "parameters": [{"name": name, "shape": list(dims)} for name, dims in shape.PARAMETERS],
        "input": {
            "shape": [shape.WINDOW, shape.CHANNELS],
            "dtype": "float32",
            "rate_hz": shape.RATE_HZ,
            "channels": list(shape.CHANNEL_NAMES),
            "units": list(shape.CHANNEL_UNITS),
            "mean": list(shape.MEAN),
            "scale": list(shape.SCALE),
        },
        "classes": list(shape.CLASS_NAMES),
        "batch": shape.BATCH,
        "optimiser": {"name": "sgd", "momentum": shape.MOMENTUM},
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


def _hex(data: bytes) -> str:
    return sha256(data).hexdigest()


def build() -> dict[str, bytes]:
    """All three files by suffix."""
    weights = initial_weights()
    tflite = convert(weights)
    flat = np.concatenate([w.ravel() for w in weights]).astype("<f4").tobytes()
    text = json.dumps(manifest(tflite, flat), indent=2) + "\n"
    return {".tflite": tflite, ".weights.bin": flat, ".json": text.encode()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="author", description="Make the watch CNN's files.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.tflite")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the files differ"
    )
    args = parser.parse_args(argv)
    different = 0
    for suffix, content in build().items():
        path: Path = args.output.with_suffix(suffix)
        if not args.check:
            path.write_bytes(content)
        same = path.is_file() and path.read_bytes() == content
        different += not same
        print(f"{_hex(content)}  {path}{'' if same else '  DIFFERS'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
