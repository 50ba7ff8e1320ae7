"""Which implementation a Keras layer class has; docs/models.md lists the same."""

from typing import Any, Final

import keras
from keras import layers as k

from qflare.authoring.layers import (
    activation,
    attention,
    convolution,
    dense,
    merge,
    normalisation,
    pooling,
    random,
    recurrent,
    shape,
    wrappers,
)
from qflare.authoring.layers.base import Apply, Make, refuse

LAYERS: dict[type, Make] = {
    k.Activation: activation.activation,
    k.Add: merge.add,
    k.Average: merge.average,
    k.AveragePooling1D: pooling.average_pooling,
    k.AveragePooling2D: pooling.average_pooling,
    k.BatchNormalization: normalisation.batch_normalization,
    k.Concatenate: merge.concatenate,
    k.Conv1D: convolution.convolution,
    k.Conv2D: convolution.convolution,
    k.Cropping1D: shape.cropping,
    k.Cropping2D: shape.cropping,
    k.Dense: dense.dense,
    k.DepthwiseConv1D: convolution.depthwise,
    k.DepthwiseConv2D: convolution.depthwise,
    k.Dot: merge.dot,
    k.Dropout: random.dropout,
    k.ELU: activation.elu,
    k.Embedding: dense.embedding,
    k.Flatten: shape.flatten,
    k.GRU: recurrent.gru,
    k.GaussianDropout: random.gaussian_dropout,
    k.GaussianNoise: random.gaussian_noise,
    k.GlobalAveragePooling1D: pooling.global_average_pooling,
    k.GlobalAveragePooling2D: pooling.global_average_pooling,
    k.GlobalMaxPooling1D: pooling.global_max_pooling,
    k.GlobalMaxPooling2D: pooling.global_max_pooling,
    k.GroupNormalization: normalisation.group_normalization,
    k.Identity: activation.identity,
    k.LSTM: recurrent.lstm,
    k.LayerNormalization: normalisation.layer_normalization,
    k.LeakyReLU: activation.leaky_relu,
    k.MaxPooling1D: pooling.max_pooling,
    k.MaxPooling2D: pooling.max_pooling,
    k.Maximum: merge.maximum,
    k.Minimum: merge.minimum,
    k.MultiHeadAttention: attention.multi_head_attention,
    k.Multiply: merge.multiply,
    k.Normalization: shape.normalization,
    k.PReLU: activation.prelu,
    k.Permute: shape.permute,
    k.ReLU: activation.relu,
    k.RepeatVector: shape.repeat_vector,
    k.Rescaling: shape.rescaling,
    k.Reshape: shape.reshape,
    k.SeparableConv1D: convolution.separable,
    k.SeparableConv2D: convolution.separable,
    k.SimpleRNN: recurrent.simple_rnn,
    k.Softmax: activation.softmax,
    k.SpatialDropout1D: random.spatial_dropout,
    k.SpatialDropout2D: random.spatial_dropout,
    k.Subtract: merge.subtract,
    k.UpSampling1D: shape.upsampling,
    k.UpSampling2D: shape.upsampling,
    k.ZeroPadding1D: shape.zero_padding,
    k.ZeroPadding2D: shape.zero_padding,
}

# `a + b`, `a - b` and `a * b` of a functional model's tensors, by the name of Keras's operation.
OPERATORS: Final[dict[str, Make]] = {
    "Add": merge.operator_add,
    "Multiply": merge.operator_multiply,
    "Subtract": merge.operator_subtract,
}

_NEAREST: Final = {
    "Lambda": "use the layers Rescaling, Activation, Add, Multiply …: what Python code does, no "
    "table can know",
    "Conv2DTranspose": "use UpSampling2D, then Conv2D",
    "Conv1DTranspose": "use UpSampling1D, then Conv1D",
    "Conv3D": "use Conv2D",
    "RNN": "use SimpleRNN, GRU or LSTM",
    "Masking": "use windows of one length",
    "AlphaDropout": "use Dropout",
    "ActivityRegularization": "leave it out",
    "Attention": "use MultiHeadAttention",
    "GroupQueryAttention": "use MultiHeadAttention",
    "RMSNormalization": "use LayerNormalization",
    "UnitNormalization": "use LayerNormalization",
    "SpectralNormalization": "use the layer inside by itself",
    "ConvLSTM1D": "use Conv1D, then LSTM",
    "ConvLSTM2D": "use Conv2D, then LSTM",
    "EinsumDense": "use Dense, which multiplies the last axis",
    "TextVectorization": "turn text into numbers before the model",
    "StringLookup": "turn text into numbers before the model",
    "CategoryEncoding": "use Embedding",
}


def make(layer: Any) -> Apply:
    """The implementation of a Keras layer; Unsupported names it and the nearest that can."""
    kind = type(layer)
    if kind in LAYERS:
        return LAYERS[kind](layer)
    if not isinstance(layer, keras.layers.Layer) and kind.__name__ in OPERATORS:
        return OPERATORS[kind.__name__](layer)
    if isinstance(layer, keras.Model):
        refuse(layer, "a subclassed model", "make it with keras.Sequential or keras.Model")
    nearest = _NEAREST.get(kind.__name__, "docs/models.md lists the layers that there are")
    if not isinstance(layer, keras.layers.Layer):
        nearest = "of Keras's functions use +, - and *; else layers: Concatenate, Activation, …"
    elif not kind.__module__.startswith("keras."):
        nearest = "use Keras's own layers in place of one written in Python"
    return refuse(layer, "this kind of layer", nearest)


LAYERS[k.Bidirectional] = wrappers.bidirectional(make)
LAYERS[k.TimeDistributed] = wrappers.time_distributed(make)
