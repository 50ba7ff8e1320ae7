"""Child process in TensorFlow's environment: make QFLARE's model files of the timed models.

`python -m benchmarks.training.qflare_models DIR [NAME…]`
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.training.models import BATCH, MODELS, MOMENTUM, Model, keras_model


def build(model: Model, folder: Path) -> Path:
    """Write `model` as one that trains on a device; TensorFlow does the conversion."""
    from qflare.authoring.build import build_model
    from qflare.authoring.options import BuildOptions

    path = folder / f"{model.name}.tflite"
    options = BuildOptions(**_options(model))
    path.write_bytes(build_model(keras_model(model), options))
    return path


def _options(model: Model) -> dict[str, Any]:
    task = {"task": "classification"} if model.classes else {"task": "autoencoder", "loss": "mse"}
    return {
        "name": model.name,
        "optimiser": "momentum",
        "momentum": MOMENTUM,
        "batch": BATCH,
    } | task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=", ".join(MODELS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    made = {name: str(build(MODELS[name], args.folder)) for name in args.names or MODELS}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
