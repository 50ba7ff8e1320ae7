"""Layers that nothing trained comes before: no gradient passes them.

TensorFlow's own operators do, with weights that are constants: the interpreter has its fastest
kernels for these, and windows of pooling may overlap.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import tensorflow as tf
from keras import layers as k

from qflare.authoring.graph import Call, Graph
from qflare.authoring.layers.activation import activation_of
from qflare.authoring.layers.base import Apply, Make, Pass, keras_function
from qflare.authoring.network import Tensor


def without_gradients(graph: Graph, trained: Callable[[Call], bool]) -> Graph:
    """The same graph, where calls that depend on nothing trained take the faster way."""
    learns: set[int] = set()  # slots
    calls = []
    for call in graph.calls:
        if trained(call) or learns & set(call.inputs):
            learns.add(call.output)
            calls.append(call)
        else:
            make = _FROZEN.get(type(call.layer))
            apply = call.apply if make is None else make(call.layer)
            calls.append(replace(call, apply=apply, constant=True))
    return replace(graph, calls=tuple(calls))


def _activation(layer: Any) -> Apply:
    direct = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}.get(keras_function(layer, layer.activation))
    return activation_of(layer) if direct is None else lambda _, x: direct(x)


def _relu(layer: Any) -> Apply:
    if layer.max_value == 6 and not layer.negative_slope:
        return lambda _, x: tf.nn.relu6(x)
    return lambda _, x: layer(x)


def _convolution(layer: Any) -> Apply:
    after = _activation(layer)

    def apply(run: Pass, x: Tensor) -> Tensor:
        kernel, padding = run.weight(layer.kernel), layer.padding
        if padding == "causal":
            reach = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
            x, padding = tf.pad(x, ((0, 0), (reach, 0), (0, 0))), "valid"
        y = tf.nn.convolution(
            x, kernel, strides=layer.strides, padding=padding.upper(), dilations=layer.dilation_rate
        )
        return after(run, y + run.weight(layer.bias) if layer.use_bias else y)

    return apply


def _channels_apart(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    padding = layer.padding.upper()
    if len(x.shape) == 4:
        sides = (1, *layer.strides, 1)
        return tf.nn.depthwise_conv2d(x, kernel, sides, padding, dilations=layer.dilation_rate)
    image, wide, stride = tf.expand_dims(x, 1), tf.expand_dims(kernel, 0), layer.strides[0]
    if stride == 1:
        return tf.squeeze(tf.nn.depthwise_conv2d(image, wide, (1, 1, 1, 1), padding), 1)
    # The operator wants equal strides: the only row is the first of any number.
    return tf.squeeze(tf.nn.depthwise_conv2d(image, wide, (1, stride, stride, 1), padding), 1)


def _depthwise(layer: Any) -> Apply:
    after = _activation(layer)

    def apply(run: Pass, x: Tensor) -> Tensor:
        y = _channels_apart(layer, x, run.weight(layer.kernel))
        return after(run, y + run.weight(layer.bias) if layer.use_bias else y)

    return apply


def _separable(layer: Any) -> Apply:
    after = _activation(layer)

    def apply(run: Pass, x: Tensor) -> Tensor:
        middle = _channels_apart(layer, x, run.weight(layer.depthwise_kernel))
        y = tf.nn.convolution(middle, run.weight(layer.pointwise_kernel))
        return after(run, y + run.weight(layer.bias) if layer.use_bias else y)

    return apply


def _pooling(pool: Callable[..., Tensor]) -> Make:
    def make(layer: Any) -> Apply:
        def apply(_: Pass, x: Tensor) -> Tensor:
            padding = layer.padding.upper()
            if len(x.shape) == 4:
                return pool(x, layer.pool_size, layer.strides, padding)
            row = tf.expand_dims(x, 1)
            return tf.squeeze(pool(row, (1, *layer.pool_size), (1, *layer.strides), padding), 1)

        return apply

    return make


def _batch_normalization(layer: Any) -> Apply:
    """A factor and a summand for each channel, which the converter puts into a convolution."""

    def apply(run: Pass, x: Tensor) -> Tensor:
        variance = tf.nn.relu(run.weight(layer.moving_variance))
        factor = tf.math.rsqrt(variance + float(layer.epsilon))
        if layer.scale:
            factor = factor * run.weight(layer.gamma)
        summand = -run.weight(layer.moving_mean) * factor
        if layer.center:
            summand = summand + run.weight(layer.beta)
        return x * factor + summand

    return apply


_FROZEN: Final[dict[type, Make]] = {
    k.Activation: _activation,
    k.AveragePooling1D: _pooling(tf.nn.avg_pool2d),
    k.AveragePooling2D: _pooling(tf.nn.avg_pool2d),
    k.BatchNormalization: _batch_normalization,
    k.Conv1D: _convolution,
    k.Conv2D: _convolution,
    k.DepthwiseConv1D: _depthwise,
    k.DepthwiseConv2D: _depthwise,
    k.MaxPooling1D: _pooling(tf.nn.max_pool2d),
    k.MaxPooling2D: _pooling(tf.nn.max_pool2d),
    k.ReLU: _relu,
    k.SeparableConv1D: _separable,
    k.SeparableConv2D: _separable,
}
