"""Gradients clipped example by example: the sum of DP-SGD (Abadi et al. 2016, arXiv:1607.00133).

One example after the other in a loop inside the graph: the file grows by one example's pass, not
by a batch of them, and any network whose examples don't meet can be trained so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any
# The number of an example, int32 (1,) -> its weighted loss (1,), and that loss's gradients.
OneExample = Callable[[Tensor], tuple[Tensor, Sequence[Tensor]]]


def clipped_sum(
    one: OneExample, batch: int, clip: Tensor, shapes: Sequence[Sequence[int]]
) -> tuple[Tensor, list[Tensor]]:
    """The sum of losses (1,), and of gradients of which each example's has a norm up to `clip`.

    The norm is over all gradients of an example together. An example of weight 0 adds nothing.
    """

    def body(i: Tensor, loss: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
        found, gradients = one(i)
        squares = tf.add_n([tf.reduce_sum(g * g) for g in gradients])
        norm = tf.sqrt(tf.reshape(squares, (1,)))
        # clip / max(norm, clip) is min(1, clip / norm) without a division by 0.
        factor = clip / tf.maximum(norm, clip)
        return i + 1, loss + found, *(s + g * factor for s, g in zip(sums, gradients, strict=True))

    start = [tf.zeros((1,), tf.int32), tf.zeros((1,)), *(tf.zeros(shape) for shape in shapes)]
    _, loss, *sums = tf.while_loop(
        lambda i, *_: tf.reshape(i, ()) < batch, body, start, maximum_iterations=None
    )
    return loss, sums


def noised(sums: Sequence[Tensor], noise: Tensor) -> list[Tensor]:
    """Each sum plus its part of the flat noise."""
    sizes = [s.shape.num_elements() for s in sums]
    found, at = [], 0
    for s, size in zip(sums, sizes, strict=True):
        found.append(s + tf.reshape(tf.slice(noise, (at,), (size,)), s.shape))
        at += size
    return found
