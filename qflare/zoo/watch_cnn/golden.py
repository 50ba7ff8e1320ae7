"""What training on the golden batch must give, from golden weights.

The expected numbers come from an oracle that shares no code with the model: ordinary TensorFlow
layers, automatic differentiation and float64. Only the developer's machine runs it.
"""

from math import prod
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from qflare.zoo.formula import GOLDEN_MU, golden_weights, sine_batch
from qflare.zoo.watch_cnn.shape import BATCH, CHANNELS, CLASSES, MOMENTUM, PARAMETERS, WINDOW

GOLDEN_STEPS: Final = 8
LEARNING_RATE: Final = 0.2
_PADDING: Final = ((2, 2), (2, 4), (2, 4))  # samples of zeros before and after, per convolution


def oracle(initial: NDArray[np.float32]) -> tuple[list[float], dict[str, float]]:
    """Losses of the golden steps from flat weights, then the evaluation of the same batch."""
    flat = golden_weights(initial)
    ends = np.cumsum([prod(dims) for _, dims in PARAMETERS])[:-1]
    weights = [w.reshape(p[1]) for w, p in zip(np.split(flat, ends), PARAMETERS, strict=True)]
    x, y, m = (tf.constant(a) for a in sine_batch(BATCH, (WINDOW, CHANNELS), CLASSES))
    x, m = tf.cast(x, tf.float64), tf.cast(m, tf.float64)
    variables = [tf.Variable(w.astype(np.float64)) for w in weights]
    velocity = [tf.zeros_like(v) for v in variables]
    anchors = [tf.constant(v) for v in variables]

    def logits() -> Any:
        h = x
        for i, (before, after) in enumerate(_PADDING):
            kernel, bias = variables[2 * i : 2 * i + 2]
            filters = tf.reshape(kernel, (-1, h.shape[2], kernel.shape[1]))
            h = tf.pad(h, ((0, 0), (before, after), (0, 0)))
            h = tf.nn.relu(tf.nn.conv1d(h, filters, stride=2, padding="VALID") + bias)
        return tf.reduce_mean(h, axis=1) @ variables[-2] + variables[-1]

    def losses() -> Any:
        return m * tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits())

    found = []
    for _ in range(GOLDEN_STEPS):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses()) / tf.reduce_sum(m)
        found.append(round(float(loss), 6))
        gradients = tape.gradient(loss, variables)
        pulls = [GOLDEN_MU * (w - a) for w, a in zip(variables, anchors, strict=True)]
        velocity = [
            MOMENTUM * v + g + p for v, g, p in zip(velocity, gradients, pulls, strict=True)
        ]
        for w, v in zip(variables, velocity, strict=True):
            w.assign_sub(LEARNING_RATE * v)
    hits = tf.cast(tf.equal(tf.argmax(logits(), axis=1, output_type=tf.int32), y), tf.float64)
    return found, {
        "loss_sum": round(float(tf.reduce_sum(losses())), 6),
        "n": float(tf.reduce_sum(m)),
        "correct": float(tf.reduce_sum(hits * m)),
    }
