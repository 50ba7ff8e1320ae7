"""Convolutions of sequences (batch, length, channels) and images (batch, h, w, channels)."""

from typing import Any

import tensorflow as tf

from qflare.authoring import ops
from qflare.authoring.layers.activation import activation_of
from qflare.authoring.layers.base import CHANNELS_LAST, Apply, Pass, only, plain
from qflare.authoring.network import Tensor


def _checked(layer: Any) -> Apply:
    plain(layer)
    only(layer, CHANNELS_LAST, data_format="channels_last")
    return activation_of(layer)


def product(layer: Any) -> Apply:
    """Conv1D or 2D without bias and activation."""

    def one(run: Pass, x: Tensor) -> Tensor:
        (stride,), (dilation,) = layer.strides, layer.dilation_rate
        kernel = run.weight(layer.kernel)
        return ops.conv1d(x, kernel, None, stride, layer.padding, dilation)

    def two(run: Pass, x: Tensor) -> Tensor:
        kernel = run.weight(layer.kernel)
        return ops.conv2d(x, kernel, None, layer.strides, layer.padding, layer.dilation_rate)

    return one if len(layer.kernel_size) == 1 else two


def finish(layer: Any) -> Apply:
    """Its bias and activation."""
    after = activation_of(layer)

    def apply(run: Pass, y: Tensor) -> Tensor:
        return after(run, ops.add_bias(y, run.weight(layer.bias)) if layer.use_bias else y)

    return apply


def convolution(layer: Any) -> Apply:
    """Conv1D and 2D."""
    _checked(layer)
    only(layer, f"use groups=1, or Depthwise{type(layer).__name__}", groups=1)
    convolve, end = product(layer), finish(layer)
    return lambda run, x: end(run, convolve(run, x))


def _each(layer: Any, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """The depthwise convolution of either rank."""
    if len(x.shape) == 4:
        return ops.depthwise_conv2d(x, kernel, bias, layer.strides, layer.padding)
    image, (stride,) = tf.expand_dims(x, 1), layer.strides
    wide = tf.expand_dims(kernel, 0)
    return tf.squeeze(ops.depthwise_conv2d(image, wide, bias, (1, stride), layer.padding), 1)


def _undilated(layer: Any) -> Apply:
    after = _checked(layer)
    name = "Conv1D" if len(layer.dilation_rate) == 1 else "Conv2D"
    once = (1,) * len(layer.dilation_rate)
    only(layer, f"use dilation_rate=1, or a dilated {name}", dilation_rate=once)
    return after


def depthwise(layer: Any) -> Apply:
    """DepthwiseConv1D and 2D."""
    after = _undilated(layer)

    def apply(run: Pass, x: Tensor) -> Tensor:
        bias = run.weight(layer.bias) if layer.use_bias else None
        return after(run, _each(layer, x, run.weight(layer.kernel), bias))

    return apply


def separable(layer: Any) -> Apply:
    """SeparableConv1D and 2D: each channel by itself, then a matrix product over channels."""
    after = _undilated(layer)

    def apply(run: Pass, x: Tensor) -> Tensor:
        bias = run.weight(layer.bias) if layer.use_bias else None
        kernel = run.weight(layer.pointwise_kernel)
        middle = _each(layer, x, run.weight(layer.depthwise_kernel), None)
        return after(run, ops.dense(middle, tf.reshape(kernel, kernel.shape[-2:]), bias))

    return apply
