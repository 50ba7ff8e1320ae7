"""What can't be trained on a device is named, with the nearest that can."""

from collections.abc import Callable
from typing import Any

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

import keras  # noqa: E402
from keras import layers as k  # noqa: E402

from qflare.authoring.unsupported import Unsupported  # noqa: E402
from qflare.faults import LocalFault  # noqa: E402
from tests.authoring.agreement import ready, small  # noqa: E402


def two_inputs() -> Any:
    a, b = keras.Input((6,)), keras.Input((6,))
    return keras.Model([a, b], k.Dense(2)(k.Add()([a, b])))


def two_outputs() -> Any:
    x = keras.Input((6,))
    return keras.Model(x, [k.Dense(2)(x), k.Dense(3)(x)])


def twice_normalised() -> Any:
    x = keras.Input((6,))
    bn = k.BatchNormalization(name="bn")
    return keras.Model(x, k.Dense(2)(bn(bn(x))))


def broadcast_maximum() -> Any:
    x = keras.Input((6,))
    return keras.Model(x, k.Maximum()([k.Dense(6)(x), k.Dense(1)(x)]))


def attended_causally() -> Any:
    x = keras.Input((6, 2))
    return keras.Model(x, k.MultiHeadAttention(1, 2, name="look")(x, x, use_causal_mask=True))


def with_function() -> Any:
    x = keras.Input((6,))
    return keras.Model(x, k.Dense(2)(keras.ops.sin(x)))


class Own(k.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="inner")
        self.dense = k.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def windows(*layers: Any) -> Any:
    return small(*layers, shape=(9, 4))


def images(*layers: Any) -> Any:
    return small(*layers, k.Flatten(), k.Dense(2), shape=(8, 8, 4))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "Lambda": (lambda: small(k.Lambda(lambda x: x, name="l")), "l \\(Lambda\\).*Rescaling"),
    "own layer": (lambda: small(Own(name="o")), "o \\(Own\\).*Keras's own layers"),
    "subclassed model": (lambda: small(Subclassed()), "inner \\(Subclassed\\).*keras.Sequential"),
    "transposed": (lambda: images(k.Conv2DTranspose(2, 3)), "Conv2DTranspose.*UpSampling2D"),
    "unlisted": (lambda: small(k.UnitNormalization()), "UnitNormalization.*LayerNormalization"),
    "function": (with_function, "Sin.*use \\+, - and \\*"),
    "two inputs": (two_inputs, "2 inputs and 1 outputs.*one input"),
    "two outputs": (two_outputs, "1 inputs and 2 outputs"),
    "groups": (lambda: images(k.Conv2D(4, 3, groups=2)), "groups=2.*DepthwiseConv2D"),
    "channels first": (
        lambda: images(k.ZeroPadding2D(data_format="channels_first")),
        "data_format='channels_first'.*channels_last",
    ),
    "dilated depthwise": (
        lambda: images(k.DepthwiseConv2D(3, dilation_rate=2)),
        "dilation_rate=\\(2, 2\\).*dilated Conv2D",
    ),
    "overlapping pooling": (
        lambda: images(k.Conv2D(2, 1), k.MaxPooling2D(3, strides=2, name="p")),
        "p \\(MaxPooling2D\\).*pool_size equal to its strides",
    ),
    "regularizer": (
        lambda: small(k.Dense(2, kernel_regularizer="l2")),
        "a regularizer of kernel.*leave it out",
    ),
    "constraint": (
        lambda: small(k.Dense(2, bias_constraint="non_neg")),
        "a constraint on bias.*leave it out",
    ),
    "activity": (
        lambda: small(k.Dense(2, activity_regularizer="l2")),
        "activity_regularizer.*leave it out",
    ),
    "mixed precision": (
        lambda: small(k.Dense(2, dtype="mixed_float16")),
        "mixed_float16.*dtype='float32'",
    ),
    "own activation": (
        lambda: small(k.Dense(2, activation=lambda x: x * x)),
        "an activation of your own.*Keras knows by name",
    ),
    "unknown activation": (
        lambda: small(k.Dense(2, activation="mish", name="d")),
        "d \\(Dense\\): the activation 'mish'",
    ),
    "mask_zero": (
        lambda: small(k.Embedding(5, 2, mask_zero=True), k.LSTM(2)),
        "mask_zero=True.*mask_zero=False",
    ),
    "recurrent dropout": (
        lambda: windows(k.GRU(2, recurrent_dropout=0.1)),
        "recurrent_dropout=0.1.*Dropout layer before",
    ),
    "dropout inside": (lambda: windows(k.LSTM(2, dropout=0.1)), "dropout=0.1.*Dropout layer"),
    "stateful": (
        lambda: keras.Sequential([keras.Input(batch_shape=(4, 9, 4)), k.GRU(2, stateful=True)]),
        "stateful=True",
    ),
    "return_state": (
        lambda: keras.Model(x := keras.Input((9, 4)), k.GRU(2, return_state=True)(x)[0]),
        "return_state=True",
    ),
    "many steps": (
        lambda: small(k.LSTM(2, name="r"), shape=(129, 1)),
        "r \\(LSTM\\): 129 steps, of at most 128.*strided Conv1D",
    ),
    "merge_mode": (
        lambda: keras.Model(
            x := keras.Input((9, 4)),
            k.Add()(k.Bidirectional(k.GRU(2), merge_mode=None)(x)),
        ),
        "merge_mode=None.*concat",
    ),
    "time distributed": (
        lambda: small(k.TimeDistributed(k.BatchNormalization()), shape=(3, 4)),
        "BatchNormalization inside",
    ),
    "batch axis normalised": (
        lambda: images(k.BatchNormalization(axis=1)),
        "axis=1.*axis=-1",
    ),
    "layer axis": (lambda: images(k.LayerNormalization(axis=1)), "axis=\\[?1\\]?.*axis=-1"),
    "group axis": (lambda: images(k.GroupNormalization(2, axis=1)), "axis=1.*axis=-1"),
    "normalised twice": (twice_normalised, "bn .*called twice.*one layer for each call"),
    "synchronized": (
        lambda: small(k.BatchNormalization(synchronized=True), k.Dense(2)),
        "synchronized=True",
    ),
    "bilinear": (
        lambda: images(k.UpSampling2D(2, interpolation="bilinear")),
        "interpolation='bilinear'.*nearest",
    ),
    "threshold": (lambda: small(k.Dense(2), k.ReLU(threshold=0.5)), "threshold=0.5.*threshold=0"),
    "softmax axis": (lambda: windows(k.Dense(2), k.Softmax(axis=1)), "axis=1.*axis=-1"),
    "maximum": (broadcast_maximum, "inputs of different shapes"),
    "causal attention": (attended_causally, "look .*use_causal_mask.*attend to every step"),
    "normalised dot": (
        lambda: keras.Model(
            x := keras.Input((6,)), k.Dot(1, normalize=True)([k.Dense(3)(x), k.Dense(3)(x)])
        ),
        "normalize=True",
    ),
    "dropout of the batch": (
        lambda: small(k.Dropout(0.5, noise_shape=(4, 6)), k.Dense(2)),
        "noise_shape=\\(4, 6\\).*None, for the batch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_named_with_the_nearest_that_can(case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(Unsupported, match=says) as raised:
        ready(make())
    assert raised.value.nearest


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: keras.Sequential([k.Dense(2)], name="m"), "'m' has no input.*keras.Input"),
        (lambda: small(k.GlobalMaxPooling1D(), k.Dense(2), shape=(None, 3)), "every size"),
    ],
)
def test_models_without_a_full_shape(model: Callable[[], Any], says: str) -> None:
    with pytest.raises(LocalFault, match=says):
        ready(model())
