"""Batch, layer and group normalisation.

All three subtract a mean and divide by a deviation; they differ in what the two are taken over.
The gradient is written out: TensorFlow's own goes the long way round with many more operators.
"""

import math
from typing import Any

import tensorflow as tf

from qflare.authoring.layers.base import Apply, Pass, only, plain, refuse
from qflare.authoring.network import Tensor


def normalised(
    x: Tensor, axis: int, epsilon: float, share: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + epsilon) over one axis, and mean and variance.

    `share` (of a shape that broadcasts to x's) is what each element counts in the mean; along the
    axis it sums to 1. No gradient flows through the mean and variance that are returned.
    """

    @tf.custom_gradient
    def normalise(x: Tensor) -> Any:
        mean = tf.reduce_sum(x * share, axis=axis, keepdims=True)
        centred = x - mean
        variance = tf.reduce_sum(centred * centred * share, axis=axis, keepdims=True)
        inverse = tf.math.rsqrt(variance + epsilon)
        y = centred * inverse

        def gradient(d: Tensor, _mean: Tensor, _variance: Tensor) -> Tensor:
            level = tf.reduce_sum(d, axis=axis, keepdims=True)
            slope = tf.reduce_sum(d * y, axis=axis, keepdims=True)
            return inverse * (d - share * (level + y * slope))

        return (y, mean, variance), gradient

    y, mean, variance = normalise(x)
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance)


@tf.custom_gradient
def scaled(x: Tensor, gamma: Tensor) -> Any:
    """(n, c) times (c,)."""
    return x * gamma, lambda d: (d * gamma, tf.reduce_sum(d * x, axis=0))


@tf.custom_gradient
def shifted(x: Tensor, beta: Tensor) -> Any:
    """(n, c) plus (c,)."""
    return x + beta, lambda d: (d, tf.reduce_sum(d, axis=0))


def _affine(run: Pass, x: Tensor, gamma: Any, beta: Any, shape: tuple[int, ...]) -> Tensor:
    """gamma x + beta, for Keras variables of `shape`, x's last axes; either may be None."""
    width = math.prod(shape)
    rows = tf.reshape(x, (-1, width))
    if gamma is not None:
        rows = scaled(rows, tf.reshape(run.weight(gamma), (width,)))
    if beta is not None:
        rows = shifted(rows, tf.reshape(run.weight(beta), (width,)))
    return tf.reshape(rows, x.shape)


def _parts(layer: Any) -> tuple[Any, Any]:
    return layer.gamma if layer.scale else None, layer.beta if layer.center else None


def batch_normalization(layer: Any) -> Apply:
    """Ioffe, Szegedy 2015, arXiv:1502.03167.

    Training normalises by the batch where the moving statistics are trained, else by them. What
    padding holds doesn't count: examples enter the statistics by their weight in the mask.
    """
    plain(layer)
    only(layer, "use synchronized=False: a device has one replica", synchronized=False)
    gamma, beta = _parts(layer)
    epsilon, momentum = float(layer.epsilon), float(layer.momentum)

    def apply(run: Pass, x: Tensor) -> Tensor:
        if layer.axis not in (-1, len(x.shape) - 1):
            refuse(layer, f"axis={layer.axis}", "use axis=-1, the channels")
        batch, channels = x.shape[0], x.shape[-1]
        each = math.prod(x.shape[1:-1])
        rows = tf.reshape(x, (batch * each, channels))
        mean, variance = layer.moving_mean, layer.moving_variance
        if run.training and run.statistic(mean):
            share, seen = _shares(run.mask, batch, each)
            rows, now, spread = normalised(rows, 0, epsilon, share)
            rate = (1.0 - momentum) * seen
            for moving, value in ((mean, now), (variance, spread)):
                old = run.weight(moving)
                run.assign(moving, old + rate * (tf.reshape(value, (channels,)) - old))
        else:
            # Noise or rounding of an average may leave a variance below 0.
            safe = tf.nn.relu(run.weight(variance)) + epsilon
            inverse = tf.stop_gradient(tf.math.rsqrt(safe))
            rows = (rows - tf.stop_gradient(run.weight(mean))) * inverse
        return _affine(run, tf.reshape(rows, x.shape), gamma, beta, (channels,))

    return apply


def _shares(mask: Tensor | None, batch: int, each: int) -> tuple[Tensor | float, Tensor | float]:
    """What each row of an example counts, (batch * each, 1), and 1 if any counts at all, else 0."""
    if mask is None:
        return 1.0 / (batch * each), 1.0
    total = tf.reduce_sum(mask)
    share = mask / (tf.maximum(total, 1e-12) * float(each))
    columns = tf.concat([tf.reshape(share, (batch, 1))] * each, axis=1) if each > 1 else share
    return tf.reshape(columns, (batch * each, 1)), tf.minimum(total * 1e12, 1.0)


def layer_normalization(layer: Any) -> Apply:
    """Ba et al. 2016, arXiv:1607.06450: over the last axes of each example by itself."""
    plain(layer)
    only(layer, "use rms_scaling=False", rms_scaling=False)
    gamma, beta = _parts(layer)
    epsilon = float(layer.epsilon)

    def apply(run: Pass, x: Tensor) -> Tensor:
        rank = len(x.shape)
        axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
        axes = sorted(a % rank for a in axes)
        if axes != list(range(axes[0], rank)) or axes[0] == 0:
            refuse(layer, f"axis={layer.axis}", "normalise over the last axes: axis=-1")
        shape = tuple(x.shape[axes[0] :])
        width = math.prod(shape)
        rows, _, _ = normalised(tf.reshape(x, (-1, width)), 1, epsilon, 1.0 / width)
        return _affine(run, tf.reshape(rows, x.shape), gamma, beta, shape)

    return apply


def group_normalization(layer: Any) -> Apply:
    """Wu, He 2018, arXiv:1803.08494: over groups of channels of each example by itself."""
    plain(layer)
    gamma, beta = _parts(layer)
    epsilon = float(layer.epsilon)

    def apply(run: Pass, x: Tensor) -> Tensor:
        if layer.axis not in (-1, len(x.shape) - 1):
            refuse(layer, f"axis={layer.axis}", "use axis=-1, the channels")
        batch, channels = x.shape[0], x.shape[-1]
        groups = channels if layer.groups == -1 else layer.groups
        each, size = math.prod(x.shape[1:-1]), channels // groups
        rows = tf.reshape(x, (batch, each, groups, size))
        rows = tf.reshape(tf.transpose(rows, (0, 2, 1, 3)), (batch * groups, each * size))
        rows, _, _ = normalised(rows, 1, epsilon, 1.0 / (each * size))
        rows = tf.transpose(tf.reshape(rows, (batch, groups, each, size)), (0, 2, 1, 3))
        return _affine(run, tf.reshape(rows, x.shape), gamma, beta, (channels,))

    return apply
