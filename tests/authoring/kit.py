"""Small Keras models, model files made of them, and Keras's own training to compare with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from qflare.authoring.build import build_model
from qflare.authoring.interpreter import open_interpreter
from qflare.authoring.options import BuildOptions
from qflare.host.model import ModelFile, read_model

Array = Any
BATCH = 8


def _glorot(seed: int) -> Any:
    return keras.initializers.GlorotUniform(seed=seed)


def mlp(activation: str | None = "softmax", units: int = 3) -> Any:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(10, activation="tanh", name="body", kernel_initializer=_glorot(1)),
            layers.Dense(units, activation=activation, name="head", kernel_initializer=_glorot(2)),
        ]
    )


def dropout_mlp() -> Any:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dropout(0.3),
            layers.Dense(10, activation="tanh", kernel_initializer=_glorot(1)),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", kernel_initializer=_glorot(2)),
        ]
    )


def cnn() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, padding="same", activation="relu", kernel_initializer=_glorot(1)),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", kernel_initializer=_glorot(2)),
        ]
    )


def normalised() -> Any:
    return keras.Sequential(
        [
            keras.Input((12, 2)),
            layers.Conv1D(4, 3, kernel_initializer=_glorot(1)),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, kernel_initializer=_glorot(2)),
        ]
    )


def frozen_prefix() -> Any:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(9, activation="relu", kernel_initializer=_glorot(1)),
            layers.Dense(3, activation="softmax", kernel_initializer=_glorot(2)),
        ]
    )
    model.layers[0].trainable = False
    return model


def embedding() -> Any:
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(4, 3, embeddings_initializer=_glorot(1)),
            layers.Flatten(),
            layers.Dense(2, activation="sigmoid", kernel_initializer=_glorot(2)),
        ]
    )


@cache
def built(make: Callable[[], Any], **options: Any) -> ModelFile:
    """A model file; made once for all tests."""
    return read_model(build_model(make(), BuildOptions(batch=BATCH, **options)))


@dataclass
class Device:
    """A model file in the interpreter, as a device has it."""

    file: ModelFile

    def __post_init__(self) -> None:
        interpreter = open_interpreter(self.file.tflite)
        self.call = {
            n: interpreter.get_signature_runner(n) for n in interpreter.get_signature_list()
        }
        self.keys = [f"w{i}" for i in range(len(self.file.manifest.parameters))]
        self.keys += [f"p{i}" for i in range(len(self.file.manifest.personal))]
        self.load(self.weights())

    def weights(self) -> list[Array]:
        found = self.call["get_weights"]()
        return [found[key].copy() for key in self.keys]

    def load(self, weights: Sequence[Array]) -> None:
        """As a round begins."""
        self.call["set_weights"](**dict(zip(self.keys, weights, strict=True)))
        self.call["reset"]()

    def train(self, lr: float, mu: float = 0.0, **inputs: Array) -> float:
        rates = {"lr": np.array([lr], np.float32), "mu": np.array([mu], np.float32)}
        return float(self.call["train"](**inputs, **rates)["loss"][0])


def batches(model: ModelFile, count: int) -> list[dict[str, Array]]:
    """Inputs of `train`; every third batch has padding that is no example at all."""
    manifest, random = model.manifest, np.random.Generator(np.random.PCG64(11))
    found = []
    for step in range(count):
        size = (BATCH, *manifest.input.shape)
        if manifest.input.dtype == "int32":
            x = random.integers(0, 4, size).astype(np.int32)
        else:
            x = random.standard_normal(size).astype(np.float32)
        made = {"x": x, "m": np.ones(BATCH, np.float32)}
        if manifest.task == "classification":
            made["y"] = random.integers(0, manifest.rows, BATCH).astype(np.int32)
        elif manifest.task != "autoencoder":
            y = random.standard_normal((BATCH, *manifest.output))
            made["y"] = (y > 0 if manifest.task == "multilabel" else y).astype(np.float32)
        if manifest.noise:
            made["r"] = random.random((BATCH, manifest.noise), np.float32)
        if step % 3 == 2:
            made["m"][BATCH - 3 :] = 0.0
        found.append(made)
    return found


def keras_losses(name: str, target: Array, output: Any) -> Any:
    """The loss of each example by Keras, from probabilities or values."""
    flat = (len(output), -1)
    if name == "cross_entropy":
        return keras.losses.sparse_categorical_crossentropy(target, output)
    target, output = tf.reshape(target, flat), tf.reshape(output, flat)
    if name == "huber":
        return keras.losses.huber(target, output)
    by_name = {
        "binary_cross_entropy": keras.losses.binary_crossentropy,
        "mse": keras.losses.mean_squared_error,
        "mae": keras.losses.mean_absolute_error,
    }
    return by_name[name](target, output)


def keras_training(
    model: Any,
    file: ModelFile,
    steps: Sequence[dict[str, Array]],
    optimiser: Any,
    mu: float = 0.0,
) -> tuple[list[float], list[Array]]:
    """Losses, and weights afterwards, of Keras's layers, losses and optimisers."""
    anchors = [np.asarray(v) for v in model.trainable_variables]
    weights = np.asarray(file.manifest.class_weights or [1.0], np.float32)
    losses = []
    for batch in steps:
        kept = batch["m"] > 0
        x = batch["x"][kept]
        target = x if file.manifest.task == "autoencoder" else batch["y"][kept]
        share = weights[target] if file.manifest.class_weights else np.ones(len(x), np.float32)
        with tf.GradientTape() as tape:
            each = keras_losses(file.manifest.loss, target, model(x, training=True))
            loss = tf.reduce_sum(each * share) / float(kept.sum())
        variables = [v.value for v in model.trainable_variables]
        gradients = tape.gradient(loss, variables)
        gradients = [
            tf.convert_to_tensor(g) + mu * (v - a)
            for g, v, a in zip(gradients, variables, anchors, strict=True)
        ]
        optimiser.apply(gradients, model.trainable_variables)
        losses.append(float(loss))
    return losses, [np.asarray(v) for v in model.weights]


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-4) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
