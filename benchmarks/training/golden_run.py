"""A run of any model file that every machine can repeat, from its own initial weights.

Only numpy, QFLARE's reader of model files and a TFLite interpreter are needed.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.interpreter import open_interpreter
from qflare.host.model import Manifest, ModelFile

BATCHES: Final = 4
STEPS: Final = 50


def example_x(manifest: Manifest, count: int) -> NDArray[Any]:
    """`count` examples, (count, *shape): waves whose length depends on their class."""
    shape = tuple(manifest.input.shape)
    i = np.arange(math.prod(shape), dtype=np.float64)
    b = np.arange(count, dtype=np.float64)[:, None]
    if manifest.input.dtype == "int32":  # 0 and 1 are in every vocabulary
        return ((i // 2 + b) % 2).astype(np.int32).reshape(count, *shape)
    x = np.sin(0.05 * (1 + b % 7) * (i + 1) + 0.7 * b)
    return x.astype(np.float32).reshape(count, *shape)


def example_y(manifest: Manifest, count: int) -> NDArray[Any] | None:
    """What the examples are; none for an autoencoder."""
    b = np.arange(count)
    if manifest.task == "autoencoder":
        return None
    if manifest.task == "classification":
        return (b % 7 % len(manifest.classes)).astype(np.int32)
    i = np.arange(math.prod(manifest.output))
    flat = np.sin(0.9 * b[:, None] + i)
    if manifest.task == "multilabel":
        flat = np.asarray(flat > 0, np.float64)
    return flat.astype(np.float32).reshape(count, *manifest.output)


def losses(model: ModelFile, steps: int = STEPS) -> list[float]:
    """The loss of each step; the learning rate is the golden one, every tenth example counts 0."""
    manifest, batch = model.manifest, model.manifest.batch
    interpreter = open_interpreter(model.tflite)
    runner = interpreter.get_signature_runner
    train, wanted = runner("train"), set(runner("train").get_input_details())
    x, y = example_x(manifest, BATCHES * batch), example_y(manifest, BATCHES * batch)
    if manifest.features is not None:
        features = runner("features")
        parts = [features(x=part)["f"].copy() for part in np.split(x, BATCHES)]
        x = np.concatenate(parts)
    runner("set_weights")(**initial(model))
    runner("reset")()
    mask = (np.arange(batch) % 10 != 9).astype(np.float32)
    noise = np.arange(batch * manifest.noise, dtype=np.float32).reshape(batch, manifest.noise)
    fixed = {
        "m": mask,
        "lr": np.array([manifest.golden.learning_rate], np.float32),
        "mu": np.zeros(1, np.float32),
        "r": noise * np.float32(0.618) % 1,
        "clip": np.ones(1, np.float32),
        "z": np.zeros(manifest.size + manifest.personal_size, np.float32),
    }
    fixed = {name: value for name, value in fixed.items() if name in wanted}
    found = []
    for step in range(steps):
        part = slice(step % BATCHES * batch, (step % BATCHES + 1) * batch)
        labels = {} if y is None else {"y": y[part]}
        found.append(float(train(x=x[part], **labels, **fixed)["loss"][0]))
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
