"""Losses: the value for each example, and its slope by the raw output.

The slope is written out, so that training needs no gradient of the loss by the converter's
operators, and takes the fewest of them. The raw output is that of the network without a last
softmax or sigmoid: both are part of their loss, which is stable for any logits.
"""

import math
from typing import Any, Final, Protocol

import tensorflow as tf

from qflare.authoring import ops
from qflare.authoring.ops.activations import positive
from qflare.host.model.manifest import LossName

Tensor = Any
HUBER_DELTA: Final = 1.0


class Loss(Protocol):
    """A loss of the raw output (batch, *out) and the target."""

    def values(self, raw: Tensor, target: Tensor) -> Tensor:
        """(batch,): the mean over the numbers of each example's output."""

    def slopes(self, raw: Tensor, target: Tensor) -> Tensor:
        """(batch, *out): the gradient of each example's value by its raw output."""


class CrossEntropy:
    """-log of the probability of the right class; the target is int32 (batch,)."""

    def values(self, raw: Tensor, target: Tensor) -> Tensor:
        return ops.softmax_cross_entropy(raw, target)

    def slopes(self, raw: Tensor, target: Tensor) -> Tensor:
        return tf.nn.softmax(raw) - tf.one_hot(target, raw.shape[1])


class _Elementwise:
    """The mean over an example's numbers of a function of each; the target has raw's shape."""

    def values(self, raw: Tensor, target: Tensor) -> Tensor:
        each = tf.reshape(self._each(raw, target), (raw.shape[0], -1))
        return tf.reduce_mean(each, axis=1)

    def slopes(self, raw: Tensor, target: Tensor) -> Tensor:
        return self._slope(raw, target) * (1.0 / math.prod(raw.shape[1:]))

    def _each(self, raw: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class BinaryCrossEntropy(_Elementwise):
    """Of the sigmoid of the raw output."""

    def _each(self, raw: Tensor, target: Tensor) -> Tensor:
        return ops.sigmoid_cross_entropy(raw, target)

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        return tf.sigmoid(raw) - target


class SquaredError(_Elementwise):
    def _each(self, raw: Tensor, target: Tensor) -> Tensor:
        return tf.math.squared_difference(raw, target)

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        return 2.0 * (raw - target)


class AbsoluteError(_Elementwise):
    def _each(self, raw: Tensor, target: Tensor) -> Tensor:
        return tf.abs(raw - target)

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        difference = raw - target
        return positive(difference) - positive(-difference)


class Huber(_Elementwise):
    """Half the square up to HUBER_DELTA, linear above (Huber 1964, doi:10.1214/aoms/1177703732)."""

    def _each(self, raw: Tensor, target: Tensor) -> Tensor:
        size = tf.abs(raw - target)
        near = tf.minimum(size, HUBER_DELTA)
        return 0.5 * near * near + HUBER_DELTA * (size - near)

    def _slope(self, raw: Tensor, target: Tensor) -> Tensor:
        return tf.maximum(tf.minimum(raw - target, HUBER_DELTA), -HUBER_DELTA)


LOSSES: Final[dict[LossName, Loss]] = {
    "cross_entropy": CrossEntropy(),
    "binary_cross_entropy": BinaryCrossEntropy(),
    "mse": SquaredError(),
    "mae": AbsoluteError(),
    "huber": Huber(),
}
