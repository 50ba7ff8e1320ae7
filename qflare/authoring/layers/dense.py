"""Layers that multiply with a matrix or look a row up."""

from typing import Any

import tensorflow as tf

from qflare.authoring import ops
from qflare.authoring.layers.activation import activation_of
from qflare.authoring.layers.base import Apply, Pass, only, plain
from qflare.authoring.network import Tensor


def dense(layer: Any) -> Apply:
    plain(layer)
    after = activation_of(layer)

    def apply(run: Pass, x: Tensor) -> Tensor:
        bias = run.weight(layer.bias) if layer.use_bias else None
        return after(run, ops.dense(x, run.weight(layer.kernel), bias))

    return apply


def embedding(layer: Any) -> Apply:
    """(batch, …) whole numbers -> (batch, …, width)."""
    plain(layer)
    only(layer, "use mask_zero=False, and a number of its own for padding", mask_zero=False)

    def apply(run: Pass, x: Tensor) -> Tensor:
        ids = x if x.dtype == tf.int32 else tf.cast(x, tf.int32)
        return ops.gather_rows(run.weight(layer.embeddings), ids)

    return apply
