"""Activations, with gradients of builtin operators that the fast kernels take.

A comparison or a cast falls to the interpreter's slow kernels, so "is it positive" is spelled
min(BIG x, 1) of the rectified value: 0 where it is 0, else 1.
"""

import difflib
import math
from collections.abc import Callable
from typing import Any, Final, cast

import tensorflow as tf

from qflare.authoring.unsupported import Unsupported

Tensor = Any
BIG: Final = 3e38  # of float32's 3.4e38: anything above 1e-38 times this is above 1


def positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0."""
    return tf.minimum(tf.nn.relu(x) * BIG, 1.0)


@tf.custom_gradient
def relu(x: Tensor) -> Any:
    y = tf.nn.relu(x)
    return y, lambda d: d * tf.minimum(y * BIG, 1.0)


@tf.custom_gradient
def relu6(x: Tensor) -> Any:
    y = tf.minimum(tf.nn.relu(x), 6.0)
    return y, lambda d: d * tf.minimum(y * BIG, 1.0) * positive(6.0 - y)


def leaky_relu(x: Tensor, slope: float = 0.2) -> Tensor:
    """x, or slope x where it is negative."""

    @tf.custom_gradient
    def leaky(x: Tensor) -> Any:
        up = tf.nn.relu(x)
        y = slope * x + (1.0 - slope) * up
        return y, lambda d: d * (slope + (1.0 - slope) * tf.minimum(up * BIG, 1.0))

    return leaky(x)


def _exponential_unit(alpha: float, scale: float) -> Callable[[Tensor], Tensor]:
    @tf.custom_gradient
    def unit(x: Tensor) -> Any:
        up, down = tf.nn.relu(x), alpha * (tf.exp(-tf.nn.relu(-x)) - 1.0)

        def gradient(d: Tensor) -> Tensor:
            above = tf.minimum(up * BIG, 1.0)
            return d * (scale * (above + (1.0 - above) * (down + alpha)))

        return scale * (up + down), gradient

    return cast(Callable[[Tensor], Tensor], unit)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x, or alpha (e^x - 1) where it is negative (Clevert et al. 2016, arXiv:1511.07289)."""
    return _exponential_unit(alpha, 1.0)(x)


def selu(x: Tensor) -> Tensor:
    """Klambauer et al. 2017, arXiv:1706.02515."""
    return _exponential_unit(1.6732632423543772, 1.0507009873554805)(x)


@tf.custom_gradient
def sigmoid(x: Tensor) -> Any:
    y = tf.sigmoid(x)
    return y, lambda d: d * (y * (1.0 - y))


@tf.custom_gradient
def tanh(x: Tensor) -> Any:
    y = tf.tanh(x)
    return y, lambda d: d * (1.0 - y * y)


@tf.custom_gradient
def softplus(x: Tensor) -> Any:
    magnitude = tf.nn.relu(x) + tf.nn.relu(-x)
    y = tf.nn.relu(x) + tf.math.log(1.0 + tf.exp(-magnitude))
    return y, lambda d: d * tf.sigmoid(x)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), also called swish."""
    return x * sigmoid(x)


# Abramowitz, Stegun 1964, formula 7.1.26: erf to 1.5e-7.
_ERF: Final = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_ERF_P: Final = 0.3275911


@tf.custom_gradient
def gelu(x: Tensor) -> Any:
    """x times the normal distribution (Hendrycks, Gimpel 2016, arXiv:1606.08415).

    As Keras means it, by erf, which has no operator: the tail of the distribution, erfc(|x|/sqrt 2)
    / 2, is a polynomial times the bell.
    """
    up = tf.nn.relu(x)
    size = up + tf.nn.relu(-x)
    t = 1.0 / (1.0 + (_ERF_P / math.sqrt(2.0)) * size)
    polynomial = _ERF[-1] * t
    for factor in _ERF[-2::-1]:
        polynomial = (polynomial + factor) * t
    bell = tf.exp(-0.5 * (x * x))
    tail = 0.5 * polynomial * bell

    def gradient(d: Tensor) -> Tensor:
        above = tf.minimum(up * BIG, 1.0)
        below = above + (1.0 - 2.0 * above) * tail
        return d * (below + x * (bell * (1.0 / math.sqrt(2.0 * math.pi))))

    return up - size * tail, gradient


def hard_sigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return relu6(x + 3.0) * (1.0 / 6.0)


def hard_silu(x: Tensor) -> Tensor:
    """x relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


@tf.custom_gradient
def softsign(x: Tensor) -> Any:
    below = 1.0 + tf.nn.relu(x) + tf.nn.relu(-x)
    return x / below, lambda d: d / (below * below)


@tf.custom_gradient
def exponential(x: Tensor) -> Any:
    y = tf.exp(x)
    return y, lambda d: d * y


@tf.custom_gradient
def softmax(x: Tensor) -> Any:
    y = tf.nn.softmax(x)
    return y, lambda d: y * (d - tf.reduce_sum(d * y, axis=-1, keepdims=True))


ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "elu": elu,
    "exponential": exponential,
    "gelu": gelu,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": hard_silu,
    "leaky_relu": leaky_relu,
    "linear": lambda x: x,
    "relu": relu,
    "relu6": relu6,
    "selu": selu,
    "sigmoid": sigmoid,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softsign": softsign,
    "tanh": tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function that Keras calls `name`; Unsupported names the nearest that there is."""
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(name, ACTIVATIONS, 1, 0.0)[0]
        known = ", ".join(ACTIVATIONS)
        raise Unsupported(f"the activation {name!r}", f"use {near!r}; there are: {known}")
    return ACTIVATIONS[name]
