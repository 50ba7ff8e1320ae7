"""Every supported layer, with its main options, learns on the device what it learns in Keras."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers as k  # noqa: E402

from qflare.authoring.graph import read_graph  # noqa: E402
from qflare.authoring.layers.table import LAYERS, OPERATORS  # noqa: E402
from qflare.authoring.ops.activations import ACTIVATIONS  # noqa: E402
from tests.authoring.agreement import agree  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
SEQUENCE, IMAGE, FLAT = (8, 3), (6, 6, 2), (6,)


def around(shape: tuple[int, ...], *layers: Any) -> Any:
    """The layers between a dense layer, so that a gradient must pass them, and a head."""
    first = k.Dense(shape[-1], name="first")
    return keras.Sequential(
        [keras.Input(shape), first, *layers, k.Flatten(name="flat"), k.Dense(3, name="head")]
    )


def sequence(*layers: Any) -> Any:
    return around(SEQUENCE, *layers)


def image(*layers: Any) -> Any:
    return around(IMAGE, *layers)


def flat(*layers: Any) -> Any:
    return around(FLAT, *layers)


def joined(join: Callable[[Any, Any], Any], shape: tuple[int, ...] = FLAT) -> Any:
    """Two branches, put together."""
    x = keras.Input(shape)
    both = join(k.Dense(4, activation="tanh")(x), k.Dense(4)(x))
    return keras.Model(x, k.Dense(2)(k.Flatten()(both)))


def attended(layer: Any, join: Callable[[Any, Any], Any]) -> Any:
    x = keras.Input((5, 4))
    return keras.Model(x, k.Dense(2)(k.Flatten()(join(layer, k.Dense(4)(x)))))


def adapted(invert: bool) -> Any:
    layer = k.Normalization(invert=invert)
    layer.adapt(np.arange(24, dtype=np.float32).reshape(4, 6) * np.linspace(0.1, 1, 6))
    return layer


def shared() -> Any:
    """One layer, called twice."""
    x = keras.Input(FLAT)
    layer = k.Dense(6, activation="tanh")
    return keras.Model(x, k.Dense(2)(layer(layer(x))))


def nested() -> Any:
    """Models within models, one of them used twice."""
    inner = keras.Sequential([keras.Input((8, 4)), k.Conv1D(4, 3, padding="same"), k.ReLU()])
    i = keras.Input(SEQUENCE)
    outer = keras.Model(i, k.Add()([inner(k.Dense(4)(i)), k.Dense(4)(i)]))
    x = keras.Input(SEQUENCE)
    return keras.Model(x, k.Dense(2)(k.Flatten()(inner(outer(x)))))


def squeezed() -> Any:
    """Squeeze and excitation: a product that broadcasts."""
    x = keras.Input(IMAGE)
    y = k.Conv2D(4, 3)(x)
    scale = k.Dense(4, activation="sigmoid")(k.GlobalAveragePooling2D(keepdims=True)(y))
    return keras.Model(x, k.Dense(2)(k.Flatten()(k.Multiply()([y, scale]))))


def residual() -> Any:
    x = keras.Input(SEQUENCE)
    y = k.Conv1D(4, 3, padding="same", activation="relu")(x)
    z = k.Conv1D(4, 3, padding="same")(y)
    return keras.Model(x, k.Dense(2)(k.GlobalAveragePooling1D()(k.Activation("relu")(y + z))))


def arithmetic() -> Any:
    x = keras.Input(FLAT)
    a, b = k.Dense(4)(x), k.Dense(4)(x)
    return keras.Model(x, k.Dense(2)(1.0 - a * 2.0 + b * a - b + 0.5))


def words(*layers: Any, **options: Any) -> Any:
    return keras.Sequential(
        [keras.Input((5,), dtype="int32"), k.Embedding(7, 4, **options), *layers, k.Dense(2)]
    )


CASES: dict[str, Callable[[], Any]] = {
    "Dense": lambda: flat(k.Dense(5, activation="tanh", use_bias=False)),
    "Dense of a sequence": lambda: sequence(k.Dense(5, activation="relu")),
    "Conv1D same": lambda: sequence(k.Conv1D(5, 3, padding="same", activation="relu")),
    "Conv1D valid, strides": lambda: sequence(k.Conv1D(5, 4, strides=3, use_bias=False)),
    "Conv1D same, strides": lambda: sequence(k.Conv1D(5, 3, strides=2, padding="same")),
    "Conv1D causal, dilated": lambda: sequence(k.Conv1D(4, 3, padding="causal", dilation_rate=2)),
    "Conv1D causal, strides": lambda: sequence(k.Conv1D(4, 3, padding="causal", strides=2)),
    "Conv1D same, dilated": lambda: sequence(k.Conv1D(4, 3, padding="same", dilation_rate=2)),
    "Conv2D same": lambda: image(k.Conv2D(4, 3, padding="same", activation="relu")),
    "Conv2D valid": lambda: image(k.Conv2D(4, (2, 3), use_bias=False)),
    "Conv2D strides": lambda: image(k.Conv2D(4, 3, strides=2, padding="same")),
    "Conv2D uneven strides": lambda: image(k.Conv2D(4, (3, 2), strides=(1, 2))),
    "Conv2D dilated": lambda: image(k.Conv2D(3, 2, dilation_rate=2, padding="same")),
    "Conv2D 1x1": lambda: image(k.Conv2D(5, 1)),
    "DepthwiseConv1D": lambda: sequence(k.DepthwiseConv1D(3, padding="same", activation="relu")),
    "DepthwiseConv1D multiplier": lambda: sequence(
        k.DepthwiseConv1D(3, depth_multiplier=2, strides=2)
    ),
    "DepthwiseConv2D": lambda: image(k.DepthwiseConv2D(3, padding="same")),
    "DepthwiseConv2D strides": lambda: image(
        k.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, activation="relu6")
    ),
    "DepthwiseConv2D multiplier": lambda: image(k.DepthwiseConv2D(2, depth_multiplier=2)),
    "SeparableConv1D": lambda: sequence(k.SeparableConv1D(4, 3, padding="same", strides=2)),
    "SeparableConv2D": lambda: image(
        k.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu")
    ),
    "MaxPooling1D": lambda: sequence(k.MaxPooling1D(2)),
    "MaxPooling1D same": lambda: sequence(k.MaxPooling1D(3, padding="same")),
    "MaxPooling2D": lambda: image(k.MaxPooling2D(2)),
    "MaxPooling2D uneven": lambda: image(k.MaxPooling2D((2, 3), padding="same")),
    "AveragePooling1D": lambda: sequence(k.AveragePooling1D(3, padding="same")),
    "AveragePooling2D": lambda: image(k.AveragePooling2D(2)),
    "AveragePooling2D same": lambda: image(k.AveragePooling2D(4, padding="same")),
    "GlobalMaxPooling1D": lambda: sequence(k.GlobalMaxPooling1D()),
    "GlobalMaxPooling2D": lambda: image(k.GlobalMaxPooling2D(keepdims=True)),
    "GlobalAveragePooling1D": lambda: sequence(k.GlobalAveragePooling1D(keepdims=True)),
    "GlobalAveragePooling2D": lambda: image(k.GlobalAveragePooling2D()),
    "BatchNormalization": lambda: flat(k.BatchNormalization()),
    "BatchNormalization of a sequence": lambda: sequence(
        k.BatchNormalization(momentum=0.7, epsilon=1e-2)
    ),
    "BatchNormalization of images": lambda: image(
        k.Conv2D(4, 3, use_bias=False), k.BatchNormalization(scale=False), k.ReLU()
    ),
    "BatchNormalization without shift": lambda: flat(k.BatchNormalization(center=False)),
    "LayerNormalization": lambda: sequence(k.LayerNormalization()),
    "LayerNormalization of two axes": lambda: sequence(k.LayerNormalization(axis=(1, 2))),
    "LayerNormalization bare": lambda: flat(k.LayerNormalization(center=False, scale=False)),
    "GroupNormalization": lambda: image(k.Conv2D(6, 2), k.GroupNormalization(groups=3)),
    "GroupNormalization of instances": lambda: sequence(k.GroupNormalization(groups=-1)),
    "Dropout": lambda: flat(k.Dropout(0.4), k.Dense(5), k.Dropout(0.2)),
    "Dropout by step": lambda: sequence(k.Dropout(0.4, noise_shape=(None, 8, 1))),
    "SpatialDropout1D": lambda: sequence(k.SpatialDropout1D(0.3)),
    "SpatialDropout2D": lambda: image(k.SpatialDropout2D(0.3)),
    "GaussianNoise": lambda: flat(k.GaussianNoise(0.3)),
    "GaussianDropout": lambda: flat(k.GaussianDropout(0.2)),
    "Embedding": lambda: words(k.Flatten()),
    "Embedding of a float input": lambda: keras.Sequential(
        [keras.Input((5,)), k.Embedding(7, 3), k.GlobalAveragePooling1D(), k.Dense(2)]
    ),
    "SimpleRNN": lambda: sequence(k.SimpleRNN(5)),
    "SimpleRNN sequences, backwards": lambda: sequence(
        k.SimpleRNN(5, return_sequences=True, go_backwards=True, activation="relu", use_bias=False)
    ),
    "GRU": lambda: sequence(k.GRU(5)),
    "GRU sequences": lambda: sequence(k.GRU(4, return_sequences=True, go_backwards=True)),
    "GRU reset before": lambda: sequence(k.GRU(4, reset_after=False)),
    "GRU without bias": lambda: sequence(k.GRU(4, use_bias=False)),
    "LSTM": lambda: sequence(k.LSTM(5)),
    "LSTM sequences": lambda: sequence(
        k.LSTM(4, return_sequences=True, go_backwards=True, use_bias=False),
        k.LSTM(3, recurrent_activation="hard_sigmoid"),
    ),
    "Bidirectional": lambda: sequence(k.Bidirectional(k.LSTM(3))),
    "Bidirectional sequences": lambda: sequence(
        k.Bidirectional(k.GRU(3, return_sequences=True), merge_mode="sum"),
        k.Bidirectional(k.SimpleRNN(3), merge_mode="ave"),
    ),
    "TimeDistributed": lambda: sequence(k.TimeDistributed(k.Dense(4, activation="tanh"))),
    "TimeDistributed convolution": lambda: image(k.TimeDistributed(k.Conv1D(3, 2))),
    "MultiHeadAttention": lambda: attended(
        k.MultiHeadAttention(2, 3), lambda layer, x: layer(x, x)
    ),
    "MultiHeadAttention options": lambda: attended(
        k.MultiHeadAttention(2, 3, value_dim=2, dropout=0.2, use_bias=False, output_shape=5),
        lambda layer, x: layer(x, k.Dense(3)(x), key=x),
    ),
    "Add": lambda: joined(lambda a, b: k.Add()([a, b, a])),
    "Subtract": lambda: joined(lambda a, b: k.Subtract()([a, b])),
    "Multiply": lambda: joined(lambda a, b: k.Multiply()([a, b])),
    "Multiply, broadcast": squeezed,
    "Average": lambda: joined(lambda a, b: k.Average()([a, b, b])),
    "Maximum": lambda: joined(lambda a, b: k.Maximum()([a, b, k.ReLU()(a)])),
    "Minimum": lambda: joined(lambda a, b: k.Minimum()([a, b])),
    "Concatenate": lambda: joined(lambda a, b: k.Concatenate()([a, b])),
    "Concatenate of steps": lambda: joined(lambda a, b: k.Concatenate(axis=1)([a, b]), SEQUENCE),
    "Dot": lambda: joined(lambda a, b: k.Dot(axes=1)([a, b])),
    "Dot of sequences": lambda: joined(lambda a, b: k.Dot(axes=(2, 2))([a, b]), SEQUENCE),
    "Dot of steps": lambda: joined(lambda a, b: k.Dot(axes=1)([a, b]), SEQUENCE),
    "operators": arithmetic,
    "residual": residual,
    "one layer twice": shared,
    "models in models": nested,
    "Flatten": lambda: image(k.Flatten()),
    "Reshape": lambda: sequence(k.Reshape((2, -1, 3)), k.Conv2D(3, 2)),
    "Permute": lambda: sequence(k.Permute((2, 1)), k.Conv1D(3, 2)),
    "ZeroPadding1D": lambda: sequence(k.ZeroPadding1D((1, 2)), k.Conv1D(3, 2)),
    "ZeroPadding2D": lambda: image(k.ZeroPadding2D(((1, 0), (2, 1))), k.Conv2D(3, 2)),
    "Cropping1D": lambda: sequence(k.Cropping1D((1, 2))),
    "Cropping2D": lambda: image(k.Cropping2D(((1, 0), (2, 1)))),
    "UpSampling1D": lambda: sequence(k.UpSampling1D(3), k.Conv1D(3, 2)),
    "UpSampling2D": lambda: image(k.UpSampling2D((2, 3)), k.Conv2D(3, 2)),
    "RepeatVector": lambda: flat(k.RepeatVector(3), k.Conv1D(3, 2)),
    "Rescaling": lambda: keras.Sequential(
        [keras.Input(FLAT), k.Rescaling(0.5, offset=-1.0), k.Dense(3)]
    ),
    "Rescaling of bytes": lambda: keras.Sequential(
        [keras.Input(FLAT, dtype="uint8"), k.Rescaling(1 / 4), k.Dense(3)]
    ),
    "Normalization": lambda: keras.Sequential([keras.Input(FLAT), adapted(False), k.Dense(3)]),
    "Normalization, inverted": lambda: flat(adapted(True)),
    "Identity": lambda: flat(k.Identity()),
    "ReLU": lambda: flat(k.ReLU()),
    "ReLU with a ceiling and a slope": lambda: flat(k.ReLU(max_value=0.5, negative_slope=0.1)),
    "LeakyReLU": lambda: flat(k.LeakyReLU(negative_slope=0.3)),
    "ELU": lambda: flat(k.ELU(alpha=0.7)),
    "PReLU": lambda: flat(k.PReLU(alpha_initializer="ones")),
    "PReLU, one for each channel": lambda: image(
        k.PReLU(shared_axes=(1, 2), alpha_initializer=keras.initializers.Constant(0.2))
    ),
    "Softmax": lambda: flat(k.Softmax()),
    **{f"Activation {name}": lambda name=name: flat(k.Activation(name)) for name in ACTIVATIONS},
}
WHOLE = {
    "Embedding": 7,
    "Embedding of a float input": 7,
    "Rescaling of bytes": 8,
}


# Steeper losses: at the usual rate they diverge, in Keras as well.
GENTLE = (
    "Dot of sequences",
    "Dot of steps",
    "operators",
    "Flatten",
    "UpSampling2D",
    "Normalization, inverted",
    "Activation exponential",
)


@pytest.mark.parametrize("case", CASES)
def test_learns_as_in_keras(case: str) -> None:
    keras.utils.set_random_seed(3)
    agree(CASES[case](), whole=WHOLE.get(case), learning_rate=0.002 if case in GENTLE else 0.02)


def _called() -> tuple[set[type], set[str]]:
    """The classes of layers, and names of operators, that the cases call."""
    layers, operators = set(), set()
    for case in CASES.values():
        for call in read_graph(case()).calls:
            kind = type(call.layer)
            if isinstance(call.layer, keras.layers.Layer):
                layers.add(kind)
            else:
                operators.add(kind.__name__)
    return layers, operators


def test_every_supported_layer_has_a_case() -> None:
    layers, operators = _called()
    assert layers == set(LAYERS)
    assert operators == set(OPERATORS)


def test_the_docs_list_exactly_the_supported_layers() -> None:
    text = DOCS.read_text()
    table = text[text.index("<!-- layers -->") : text.index("<!-- /layers -->")]
    listed = re.findall(r"`([A-Z]\w+)`", "\n".join(re.findall(r"^\| *([^|]*)\|", table, re.M)))
    assert sorted(listed) == sorted(kind.__name__ for kind in LAYERS)
