"""The models that are timed: shapes, initial weights and batches, the same for every framework.

numpy alone is needed here; `keras_model` imports Keras when it is called. The weights are in the
order and layout of Keras; the sides bring them into their own.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BATCH: Final = 32
MOMENTUM: Final = 0.9
BATCHES: Final = 16  # different ones; a run goes round

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Model:
    """One model; `classes` is 0 for the autoencoder, whose target is its input."""

    name: str
    title: str
    input_shape: tuple[int, ...]
    classes: int
    learning_rate: float  # small enough that 50 steps don't amplify rounding
    parameters: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """The number of scalars."""
        return sum(math.prod(shape) for _, shape in self.parameters)


def _dense(*widths: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(widths), 1):
        layers += [(f"dense{i}/kernel", (inputs, outputs)), (f"dense{i}/bias", (outputs,))]
    return tuple(layers)


def _conv(number: int, *kernel: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return (f"conv{number}/kernel", kernel), (f"conv{number}/bias", kernel[-1:])


MODELS: Final = {
    model.name: model
    for model in (
        Model(
            "mlp",
            "MLP 64-128-64-10, relu (an 8x8 digit)",
            (64,),
            10,
            0.05,
            _dense(64, 128, 64, 10),
        ),
        Model(
            "mlp_har",
            "MLP 561-128-64-6, relu (features of a window of motion)",
            (561,),
            6,
            0.01,
            _dense(561, 128, 64, 6),
        ),
        Model(
            "autoencoder",
            "autoencoder 9-16-4-16-9, tanh",
            (9,),
            0,
            0.05,
            _dense(9, 16, 4, 16, 9),
        ),
        Model(
            "gru",
            "GRU, 12 steps of 6, 32 units",
            (12, 6),
            7,
            0.05,
            (
                ("gru/kernel", (6, 96)),
                ("gru/recurrent_kernel", (32, 96)),
                ("gru/bias", (2, 96)),
                *_dense(32, 7),
            ),
        ),
        Model(
            "cnn1d",
            "CNN 1-D, 128x6, three convolutions of stride 2",
            (128, 6),
            7,
            0.01,
            (*_conv(1, 6, 6, 12), *_conv(2, 8, 12, 20), *_conv(3, 8, 20, 28), *_dense(28, 7)),
        ),
        Model(
            "cnn2d",
            "CNN 2-D, 28x28, two convolutions and max pooling",
            (28, 28, 1),
            10,
            0.01,
            (*_conv(1, 3, 3, 1, 8), *_conv(2, 3, 3, 8, 16), *_dense(784, 10)),
        ),
    )
}


def initial_weights(model: Model) -> list[Array]:
    """Uniform after Glorot; small biases that aren't zero, so that a lost one shows."""
    random = np.random.Generator(np.random.PCG64(sum(model.name.encode())))
    weights = []
    for name, shape in model.parameters:
        fans = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
        limit = 0.05 if name.endswith("bias") else math.sqrt(6 / sum(fans))
        weights.append(random.uniform(-limit, limit, shape).astype(np.float32))
    return weights


def batches(model: Model) -> list[tuple[Array, NDArray[np.int32] | None]]:
    """`BATCHES` of noise about one pattern for each class, so that there is something to learn."""
    random = np.random.Generator(np.random.PCG64(BATCH))
    kinds = max(model.classes, 4)
    patterns = random.normal(0, 0.7, (kinds, *model.input_shape))
    made = []
    for _ in range(BATCHES):
        y = random.integers(0, kinds, BATCH)
        x = patterns[y] + random.normal(0, 0.7, (BATCH, *model.input_shape))
        made.append((x.astype(np.float32), y.astype(np.int32) if model.classes else None))
    return made


def keras_model(model: Model, *, unroll: bool = False) -> Any:
    """The Keras model that gives logits (or the autoencoder's output), with the initial weights.

    `unroll` is of the GRU: both ways compute the same.
    """
    from keras import Input, Sequential, layers

    widths = [shape[-1] for name, shape in model.parameters if name.startswith("dense")][::2]
    inside = "relu" if model.classes else "tanh"
    head = [layers.Dense(w, inside, name=f"dense{i}") for i, w in enumerate(widths[:-1], 1)]
    head.append(layers.Dense(widths[-1], name=f"dense{len(widths)}"))
    body: list[Any] = []
    if model.name == "gru":
        body = [layers.GRU(32, unroll=unroll, name="gru")]
    elif model.name == "cnn1d":
        for i, (width, kernel) in enumerate(((12, 6), (20, 8), (28, 8)), 1):
            options = {"strides": 2, "padding": "same", "activation": "relu", "name": f"conv{i}"}
            body.append(layers.Conv1D(width, kernel, **options))
        body.append(layers.GlobalAveragePooling1D(name="average"))
    elif model.name == "cnn2d":
        for i, width in enumerate((8, 16), 1):
            options = {"padding": "same", "activation": "relu", "name": f"conv{i}"}
            body += [layers.Conv2D(width, 3, **options), layers.MaxPooling2D(2, name=f"pool{i}")]
        body.append(layers.Flatten(name="flatten"))
    made = Sequential([Input(model.input_shape), *body, *head], name=model.name)
    made.set_weights(initial_weights(model))
    return made
