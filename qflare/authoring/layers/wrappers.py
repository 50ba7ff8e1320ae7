"""Layers around layers."""

from typing import Any

import tensorflow as tf

from qflare.authoring.layers.base import Apply, Make, Pass, only, refuse
from qflare.authoring.network import Tensor


def bidirectional(make: Make) -> Make:
    """Schuster, Paliwal 1997: one layer each way. `make` makes the two."""

    def made(layer: Any) -> Apply:
        joins = {
            "concat": lambda a, b: tf.concat([a, b], axis=-1),
            "sum": lambda a, b: a + b,
            "ave": lambda a, b: (a + b) * 0.5,
            "mul": lambda a, b: a * b,
        }
        if layer.merge_mode not in joins:
            refuse(layer, f"merge_mode={layer.merge_mode!r}", "use merge_mode='concat'")
        only(layer, "use return_state=False", return_state=False)
        forward, backward = make(layer.forward_layer), make(layer.backward_layer)

        def apply(run: Pass, x: Tensor) -> Tensor:
            there, back = forward(run, x), backward(run, x)
            if layer.return_sequences:
                back = tf.stack(tf.unstack(back, axis=1)[::-1], axis=1)
            return joins[layer.merge_mode](there, back)

        return apply

    return made


def time_distributed(make: Make) -> Make:
    """The same layer at each step: steps become examples."""

    def made(layer: Any) -> Apply:
        inner = make(layer.layer)
        if type(layer.layer).__name__ not in ALIKE:
            refuse(
                layer, f"{type(layer.layer).__name__} inside", "wrap one of: " + ", ".join(ALIKE)
            )

        def apply(run: Pass, x: Tensor) -> Tensor:
            batch, steps = x.shape[:2]
            y = inner(run, tf.reshape(x, (batch * steps, *x.shape[2:])))
            return tf.reshape(y, (batch, steps, *y.shape[1:]))

        return apply

    return made


# Layers that treat each example by itself and draw nothing.
ALIKE = (
    "Dense",
    "Conv1D",
    "Conv2D",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
    "MaxPooling1D",
    "MaxPooling2D",
    "AveragePooling1D",
    "AveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "Flatten",
    "Reshape",
    "Permute",
    "Activation",
    "ReLU",
    "LayerNormalization",
    "Embedding",
)
