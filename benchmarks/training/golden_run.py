"""A run of any model file that every machine can repeat, from its own initial weights.

Only numpy, QFLARE's reader of model files and a TFLite interpreter are needed.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.interpreter import open_interpreter
from qflare.host.model import ModelFile
from qflare.zoo.formula import golden_inputs

STEPS: Final = 50


def losses(model: ModelFile, steps: int = STEPS) -> list[float]:
    """The loss of each step, at the golden learning rate.

    The golden batch is turned by one example each time, so that others are masked out.
    """
    interpreter = open_interpreter(model.tflite)
    runner = interpreter.get_signature_runner
    train = runner("train")
    inputs = golden_inputs(model.manifest)
    if model.manifest.features is not None:
        inputs["x"] = runner("features")(x=inputs["x"])["f"].copy()
    inputs["lr"] = np.array([model.manifest.golden.learning_rate], np.float32)
    turned = [name for name in ("x", "y") if name in inputs]
    runner("set_weights")(**initial(model))
    runner("reset")()
    found = []
    for _ in range(steps):
        found.append(float(train(**inputs)["loss"][0]))
        inputs |= {name: np.roll(inputs[name], 1, axis=0) for name in turned}
    return found


def initial(model: ModelFile) -> dict[str, NDArray[np.float32]]:
    """What `set_weights` takes."""
    inputs = {}
    manifest = model.manifest
    for letter, parameters, raw in (
        ("w", manifest.parameters, model.weights),
        ("p", manifest.personal, model.personal),
    ):
        flat, at = np.frombuffer(raw, "<f4"), 0
        for i, parameter in enumerate(parameters):
            end = at + math.prod(parameter.shape)
            inputs[f"{letter}{i}"] = flat[at:end].reshape(parameter.shape)
            at = end
    return inputs
