"""Layers that move numbers about, or scale them by constants."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from qflare.authoring.layers.base import CHANNELS_LAST, Apply, Pass, only
from qflare.authoring.network import Tensor


def flatten(layer: Any) -> Apply:
    only(layer, CHANNELS_LAST, data_format="channels_last")
    return lambda _, x: tf.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def reshape(layer: Any) -> Apply:
    def apply(_: Pass, x: Tensor) -> Tensor:
        target = list(layer.target_shape)
        if -1 in target:
            known = math.prod(n for n in target if n != -1)
            target[target.index(-1)] = math.prod(x.shape[1:]) // known
        return tf.reshape(x, (x.shape[0], *target))

    return apply


def permute(layer: Any) -> Apply:
    return lambda _, x: tf.transpose(x, (0, *layer.dims))


def repeat_vector(layer: Any) -> Apply:
    """(batch, n) -> (batch, times, n)."""
    times = int(layer.n)
    return lambda _, x: tf.reshape(tf.concat([x] * times, axis=1), (x.shape[0], times, x.shape[1]))


def _pairs(amounts: Any) -> list[tuple[int, int]]:
    """((before, after), …), one pair for each spatial axis."""
    pairs = [amounts] if isinstance(amounts[0], int) else amounts
    return [(int(before), int(after)) for before, after in pairs]


def zero_padding(layer: Any) -> Apply:
    only(layer, CHANNELS_LAST, data_format="channels_last")
    pairs = _pairs(layer.padding)
    return lambda _, x: tf.pad(x, ((0, 0), *pairs, (0, 0)))


def cropping(layer: Any) -> Apply:
    only(layer, CHANNELS_LAST, data_format="channels_last")
    pairs = _pairs(layer.cropping)

    def apply(_: Pass, x: Tensor) -> Tensor:
        start = (0, *(before for before, _ in pairs), 0)
        inner = [n - sum(pair) for n, pair in zip(x.shape[1:-1], pairs, strict=True)]
        return tf.slice(x, start, (x.shape[0], *inner, x.shape[-1]))

    return apply


def upsampling(layer: Any) -> Apply:
    """UpSampling1D and 2D: each sample several times."""
    only(layer, CHANNELS_LAST, data_format="channels_last")
    only(layer, "use interpolation='nearest'", interpolation="nearest")
    size = layer.size if isinstance(layer.size, tuple | list) else (1, layer.size)
    rows, columns = (int(n) for n in size)

    def apply(_: Pass, x: Tensor) -> Tensor:
        if len(x.shape) == 3:
            return tf.squeeze(_repeated(tf.expand_dims(x, 1), 1, columns), 1)
        return _repeated(x, rows, columns)

    return apply


def _repeated(x: Tensor, rows: int, columns: int) -> Tensor:
    batch, height, width, channels = x.shape

    @tf.custom_gradient
    def repeat(x: Tensor) -> Any:
        row = tf.reshape(x, (batch * height * width, channels))
        row = tf.reshape(tf.concat([row] * columns, axis=1), (batch * height, -1))
        y = tf.concat([row] * rows, axis=1)

        def gradient(d: Tensor) -> Tensor:
            d = tf.reshape(d, (batch * height, rows, width * columns * channels))
            d = tf.reshape(tf.reduce_sum(d, axis=1), (-1, columns, channels))
            return tf.reshape(tf.reduce_sum(d, axis=1), x.shape)

        return tf.reshape(y, (batch, height * rows, width * columns, channels)), gradient

    return repeat(x)


def _float(x: Tensor) -> Tensor:
    return x if x.dtype == tf.float32 else tf.cast(x, tf.float32)


def rescaling(layer: Any) -> Apply:
    scale, offset = (np.asarray(v, np.float32) for v in (layer.scale, layer.offset))
    return lambda _, x: _float(x) * scale + offset


def normalization(layer: Any) -> Apply:
    """Keras's preprocessing layer: what it was adapted to, or given, are constants."""
    mean, variance = (np.asarray(v, np.float32) for v in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7))
    if layer.invert:
        return lambda _, x: _float(x) * deviation + mean
    return lambda _, x: (_float(x) - mean) / deviation
