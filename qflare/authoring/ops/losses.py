"""Losses whose stock gradients have no builtin operators."""

from typing import Any

import tensorflow as tf

Tensor = Any


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log of the probability of the right class: logits (batch, n), labels int32 (batch,)."""
    return -tf.reduce_sum(tf.one_hot(labels, logits.shape[1]) * tf.nn.log_softmax(logits), axis=1)


def sigmoid_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy, element by element, stable for large logits of either sign."""
    magnitude = tf.nn.relu(logits) + tf.nn.relu(-logits)

    @tf.custom_gradient
    def stable(logits: Tensor) -> Any:
        loss = tf.nn.relu(logits) - logits * targets + tf.math.log(1.0 + tf.exp(-magnitude))
        return loss, lambda d: d * (tf.sigmoid(logits) - targets)

    return stable(logits)
