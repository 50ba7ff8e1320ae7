"""Layers and operators that join tensors."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import tensorflow as tf

from qflare.authoring.layers.base import Apply, Make, Pass, axis_of, only, refuse
from qflare.authoring.network import Tensor
from qflare.authoring.ops.activations import positive


def _folded(join: Callable[[Tensor, Tensor], Tensor]) -> Make:
    def make(_: Any) -> Apply:
        return lambda _, tensors: reduce(join, tensors)

    return make


@tf.custom_gradient
def larger(a: Tensor, b: Tensor) -> Any:
    """The larger of two tensors of one shape; a tie gives its gradient to the first."""

    def gradient(d: Tensor) -> Any:
        to_b = d * positive(b - a)
        return d - to_b, to_b

    return tf.maximum(a, b), gradient


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    return -larger(-a, -b)


add = _folded(lambda a, b: a + b)
subtract = _folded(lambda a, b: a - b)
multiply = _folded(lambda a, b: a * b)


def _alike(join: Callable[[Tensor, Tensor], Tensor]) -> Make:
    """For tensors of one shape only."""

    def make(layer: Any) -> Apply:
        def apply(_: Pass, tensors: list[Tensor]) -> Tensor:
            if len({tuple(t.shape) for t in tensors}) > 1:
                refuse(layer, "inputs of different shapes", "use inputs of one shape")
            return reduce(join, tensors)

        return apply

    return make


maximum = _alike(larger)
minimum = _alike(_smaller)


def average(_: Any) -> Apply:
    return lambda _, tensors: reduce(lambda a, b: a + b, tensors) * (1.0 / len(tensors))


def concatenate(layer: Any) -> Apply:
    def apply(_: Pass, tensors: list[Tensor]) -> Tensor:
        return tf.concat(tensors, axis_of(layer, layer.axis, len(tensors[0].shape)))

    return apply


def dot(layer: Any) -> Apply:
    """The sum of products over one axis of each: (…, n) with (…, n)."""
    only(layer, "use normalize=False, and UnitNormalization's like before", normalize=False)

    def apply(_: Pass, tensors: list[Tensor]) -> Tensor:
        a, b = tensors
        axes = layer.axes if isinstance(layer.axes, tuple | list) else (layer.axes,) * 2
        first, second = (
            axis_of(layer, n, len(t.shape)) for n, t in zip(axes, tensors, strict=True)
        )
        if len(a.shape) == len(b.shape) == 2:
            return tf.reduce_sum(a * b, axis=1, keepdims=True)
        if len(a.shape) != 3 or len(b.shape) != 3:
            refuse(layer, "inputs of other ranks than 2 and 2, or 3 and 3", "use Reshape before")
        return tf.matmul(a, b, transpose_a=first == 1, transpose_b=second == 2)

    return apply


def _operator(join: Callable[[Any, Any], Tensor]) -> Make:
    def make(_: Any) -> Apply:
        return lambda _, a, b: join(a, b)

    return make


operator_add = _operator(lambda a, b: a + b)
operator_subtract = _operator(lambda a, b: a - b)
operator_multiply = _operator(lambda a, b: a * b)
