"""Pooling of sequences (batch, length, channels) and images (batch, h, w, channels)."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from qflare.authoring import ops
from qflare.authoring.layers.base import CHANNELS_LAST, Apply, Make, Pass, only, title
from qflare.authoring.network import Tensor
from qflare.authoring.unsupported import Unsupported

Pool = Callable[[Tensor, tuple[int, int], tuple[int, int], str], Tensor]


def _windows(pool: Pool) -> Make:
    def make(layer: Any) -> Apply:
        only(layer, CHANNELS_LAST, data_format="channels_last")
        size, strides = tuple(layer.pool_size), tuple(layer.strides)

        def apply(_: Pass, x: Tensor) -> Tensor:
            try:
                if len(x.shape) == 4:
                    return pool(x, size, strides, layer.padding)
                image = tf.expand_dims(x, 1)
                return tf.squeeze(pool(image, (1, *size), (1, *strides), layer.padding), 1)
            except Unsupported as fault:
                raise Unsupported(f"{title(layer)}: {fault.what}", fault.nearest) from None

        return apply

    return make


def _everything(pool: Pool) -> Make:
    def make(layer: Any) -> Apply:
        only(layer, CHANNELS_LAST, data_format="channels_last")

        def apply(_: Pass, x: Tensor) -> Tensor:
            image = x if len(x.shape) == 4 else tf.expand_dims(x, 1)
            batch, height, width, channels = image.shape
            y = pool(image, (height, width), (height, width), "valid")
            kept = (1,) * (len(x.shape) - 2) if layer.keepdims else ()
            return tf.reshape(y, (batch, *kept, channels))

        return apply

    return make


max_pooling = _windows(ops.max_pool)
average_pooling = _windows(ops.avg_pool)
global_max_pooling = _everything(ops.max_pool)
global_average_pooling = _everything(ops.avg_pool)
