"""Keras's layers that draw random numbers, made to take given ones."""

import math
from collections.abc import Callable
from typing import Any, Final

import keras
import tensorflow as tf

from qflare.authoring.network import Tensor

Uniform = Callable[[tuple[int, ...]], Tensor]  # a shape of one example -> (batch, *shape)


class _Source:
    """Hands each call of a layer its own part of the numbers of a pass, in the order of calls."""

    def __init__(self, numbers: Callable[[], Tensor]) -> None:
        self._numbers = numbers
        self._seen: Tensor = None
        self._taken = 0

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        numbers = self._numbers()
        if numbers is not self._seen:  # another pass
            self._seen, self._taken = numbers, 0
        start, self._taken = self._taken, self._taken + math.prod(shape)
        return tf.reshape(numbers[:, start : self._taken], (-1, *shape))


def take_numbers(model: Any, numbers: Callable[[], Tensor]) -> None:
    """Change the random layers of `model`: `numbers` gives a tensor (batch, n) for each pass."""
    source = _Source(numbers)
    for layer in _random_layers(model):
        draw = _DRAWS[type(layer)]

        def call(inputs: Any, training: Any = None, layer: Any = layer, draw: Any = draw) -> Any:
            return draw(layer, inputs, source.uniform) if training else inputs

        layer.call = call


def _random_layers(model: Any) -> list[Any]:
    found: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += _random_layers(layer)
            continue
        inner = getattr(layer, "_dropout_layer", getattr(layer, "layer", layer))
        rate = getattr(inner, "rate", getattr(inner, "stddev", 0.0))
        if type(inner) in _DRAWS and rate:
            found.append(inner)
    return found


def _kept(layer: Any, x: Tensor, r: Tensor) -> Tensor:
    return tf.where(r >= tf.cast(layer.rate, r.dtype), x / (1 - layer.rate), tf.zeros_like(x))


def _dropout(layer: Any, x: Tensor, uniform: Uniform) -> Tensor:
    shape = tuple(x.shape[1:])
    if layer.noise_shape is not None:
        asked = layer.noise_shape[1:]
        shape = tuple(n if a is None else a for n, a in zip(shape, asked, strict=True))
    return _kept(layer, x, uniform(shape))


def _spatial(layer: Any, x: Tensor, uniform: Uniform) -> Tensor:
    return _kept(layer, x, uniform((*(1 for _ in x.shape[1:-1]), x.shape[-1])))


def _normal(x: Tensor, uniform: Uniform) -> Tensor:
    """Standard normal numbers from two uniform ones each (Box, Muller 1958)."""
    u = tf.cast(uniform((2, *x.shape[1:])), tf.float64)
    return tf.cast(tf.sqrt(-2 * tf.math.log(1 - u[:, 0])) * tf.cos(2 * math.pi * u[:, 1]), x.dtype)


def _gaussian_noise(layer: Any, x: Tensor, uniform: Uniform) -> Tensor:
    return x + layer.stddev * _normal(x, uniform)


def _gaussian_dropout(layer: Any, x: Tensor, uniform: Uniform) -> Tensor:
    return x * (1 + math.sqrt(layer.rate / (1 - layer.rate)) * _normal(x, uniform))


_DRAWS: Final[dict[Any, Callable[[Any, Tensor, Uniform], Tensor]]] = {
    keras.layers.Dropout: _dropout,
    keras.layers.SpatialDropout1D: _spatial,
    keras.layers.SpatialDropout2D: _spatial,
    keras.layers.GaussianNoise: _gaussian_noise,
    keras.layers.GaussianDropout: _gaussian_dropout,
}
