"""Differentiable functions of TensorFlow tensors that become builtin TFLite operators, both ways.

All shapes are static. Images are (batch, height, width, channels), sequences (batch, length,
channels), kernels as Keras has them.
"""

from qflare.authoring.ops.activations import activation
from qflare.authoring.ops.convolution import add_bias, conv1d, conv2d
from qflare.authoring.ops.dense import dense, gather_rows
from qflare.authoring.ops.depthwise import depthwise_conv2d
from qflare.authoring.ops.losses import sigmoid_cross_entropy, softmax_cross_entropy
from qflare.authoring.ops.pooling import avg_pool, max_pool

__all__ = [
    "activation",
    "add_bias",
    "avg_pool",
    "conv1d",
    "conv2d",
    "dense",
    "depthwise_conv2d",
    "gather_rows",
    "max_pool",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]
