"""Activations, as layers and as options of layers."""

from typing import Any

from qflare.authoring import ops
from qflare.authoring.layers.base import Apply, Pass, keras_function, only, title
from qflare.authoring.network import Tensor
from qflare.authoring.ops import activations
from qflare.authoring.unsupported import Unsupported


def activation_of(layer: Any, function: Any = None) -> Apply:
    """What `layer.activation` (or another function of the layer) does to a tensor."""
    name = keras_function(layer, layer.activation if function is None else function)
    try:
        call = ops.activation(name)
    except Unsupported as fault:
        raise Unsupported(f"{title(layer)}: {fault.what}", fault.nearest) from None
    return lambda _, x: call(x)


def activation(layer: Any) -> Apply:
    return activation_of(layer)


def relu(layer: Any) -> Apply:
    """max(x, 0), with a slope below 0 and a ceiling if wanted."""
    only(layer, "use threshold=0", threshold=0.0)
    slope, ceiling = float(layer.negative_slope), layer.max_value

    def apply(_: Pass, x: Tensor) -> Tensor:
        if ceiling is not None:
            # min(x, c) = c - relu(c - x), whose gradient is that of relu.
            x = float(ceiling) - activations.relu(float(ceiling) - x)
        return activations.relu(x) if slope == 0 else activations.leaky_relu(x, slope)

    return apply


def leaky_relu(layer: Any) -> Apply:
    slope = float(layer.negative_slope)
    return lambda _, x: activations.leaky_relu(x, slope)


def elu(layer: Any) -> Apply:
    alpha = float(layer.alpha)
    return lambda _, x: activations.elu(x, alpha)


def prelu(layer: Any) -> Apply:
    """relu(x) - alpha relu(-x), alpha trained (He et al. 2015, arXiv:1502.01852)."""

    def apply(run: Pass, x: Tensor) -> Tensor:
        below = activations.relu(-x)
        return activations.relu(x) - run.weight(layer.alpha) * below

    return apply


def softmax(layer: Any) -> Apply:
    only(layer, "use axis=-1", axis=-1)
    return lambda _, x: activations.softmax(x)


def identity(_: Any) -> Apply:
    return lambda _, x: x
