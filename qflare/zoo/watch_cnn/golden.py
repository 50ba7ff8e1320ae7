"""A batch that everyone can make from its formula, and what training on it must give.

The expected numbers come from an oracle that shares no code with the model: ordinary TensorFlow
layers, automatic differentiation and float64. Only the developer's machine runs it.
"""

from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from qflare.zoo.watch_cnn.shape import BATCH, CHANNELS, CLASSES, MOMENTUM, WINDOW

GOLDEN_STEPS: Final = 5
LEARNING_RATE: Final = 0.05
_PADDING: Final = ((2, 2), (2, 4), (2, 4))  # samples of zeros before and after, per convolution


def batch() -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """The batch called sine/1: x[b,t,c] = sin(0.05 (t+1)(c+1) + 0.7 b), y = b mod 7.

    The last two examples are masked out. Float64 until the sine is taken, then float32.
    """
    b = np.arange(BATCH).reshape(-1, 1, 1)
    t = np.arange(WINDOW).reshape(1, -1, 1)
    c = np.arange(CHANNELS).reshape(1, 1, -1)
    x = np.sin(0.05 * (t + 1) * (c + 1) + 0.7 * b).astype(np.float32)
    y = (np.arange(BATCH) % CLASSES).astype(np.int32)
    m = (np.arange(BATCH) < BATCH - 2).astype(np.float32)
    return x, y, m


def oracle(weights: list[NDArray[np.float32]]) -> tuple[list[float], dict[str, float]]:
    """Losses of the golden steps from these weights, then the evaluation of the same batch."""
    x, y, m = (tf.constant(a) for a in batch())
    x, m = tf.cast(x, tf.float64), tf.cast(m, tf.float64)
    variables = [tf.Variable(w.astype(np.float64)) for w in weights]
    velocity = [tf.zeros_like(v) for v in variables]

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
        velocity = [MOMENTUM * v + g for v, g in zip(velocity, gradients, strict=True)]
        for w, v in zip(variables, velocity, strict=True):
            w.assign_sub(LEARNING_RATE * v)
    hits = tf.cast(tf.equal(tf.argmax(logits(), axis=1, output_type=tf.int32), y), tf.float64)
    return found, {
        "loss_sum": round(float(tf.reduce_sum(losses())), 6),
        "n": float(tf.reduce_sum(m)),
        "correct": float(tf.reduce_sum(hits * m)),
    }
