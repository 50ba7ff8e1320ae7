"""Pooling over windows that don't overlap, and over everything.

The largest of a window goes by halves: first the rows of a window against each other, whole rows
of pixels at a time, then its columns. The gradient goes back to one of the largest.
"""

from typing import Any

import tensorflow as tf

from qflare.authoring.ops.activations import positive
from qflare.authoring.ops.padding import amounts, at_least_0, crop_image
from qflare.authoring.unsupported import Unsupported

Tensor = Any
LOWEST = -3.4e38


def max_pool(
    x: Tensor, size: tuple[int, int], strides: tuple[int, int], padding: str = "valid"
) -> Tensor:
    """The largest of each window of (batch, h, w, c)."""
    x, out = _windows("max", x, size, strides, padding, LOWEST)
    batch, _, _, channels = x.shape
    x = _largest(tf.reshape(x, (batch * out[0], size[0], out[1] * size[1] * channels)))
    x = _largest(tf.reshape(x, (batch * out[0] * out[1], size[1], channels)))
    return tf.reshape(x, (batch, *out, channels))


def avg_pool(
    x: Tensor, size: tuple[int, int], strides: tuple[int, int], padding: str = "valid"
) -> Tensor:
    """The mean of each window of (batch, h, w, c); padding doesn't count."""
    height, width = x.shape[1], x.shape[2]
    x, out = _windows("average", x, size, strides, padding, 0.0)
    batch, _, _, channels = x.shape
    x = _sum(tf.reshape(x, (batch * out[0], size[0], out[1] * size[1] * channels)))
    x = _sum(tf.reshape(x, (batch * out[0] * out[1], size[1], channels)))
    x = tf.reshape(x, (batch, *out, channels))
    counts = [
        [
            _covered(i, size[0], height, amounts(height, size[0], strides[0], padding)[0])
            * _covered(j, size[1], width, amounts(width, size[1], strides[1], padding)[0])
            for j in range(out[1])
        ]
        for i in range(out[0])
    ]
    share = 1.0 / tf.constant(counts, tf.float32)
    return x * tf.reshape(share, (1, *out, 1))


def _covered(index: int, size: int, length: int, before: int) -> int:
    start = index * size - before
    return min(start + size, length) - max(start, 0)


def _windows(
    kind: str,
    x: Tensor,
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: str,
    value: float,
) -> tuple[Tensor, tuple[int, int]]:
    """Pad or crop x to whole windows; return it and how many there are each way."""
    if size != strides:
        raise Unsupported(
            f"{kind} pooling over {size} in steps of {strides}",
            "give a pool_size equal to its strides, or a convolution with strides",
        )
    pads, out = [], []
    for axis in (1, 2):
        before, after, count = amounts(x.shape[axis], size[axis - 1], strides[axis - 1], padding)
        if padding == "valid":
            after = count * size[axis - 1] - x.shape[axis]
        pads.append((before, after))
        out.append(count)
    if pads != [(0, 0), (0, 0)]:
        x = _fit(x, pads[0], pads[1], value)
    return x, (out[0], out[1])


def _fit(x: Tensor, rows: tuple[int, int], columns: tuple[int, int], value: float) -> Tensor:
    """Crop where an amount is negative, then pad with `value` where it is positive."""
    less = [at_least_0(-before, -after) for before, after in (rows, columns)]
    more = [at_least_0(*pair) for pair in (rows, columns)]
    batch, _, _, channels = x.shape

    @tf.custom_gradient
    def fit(x: Tensor) -> Any:
        x = crop_image(x, less[0], less[1])
        _, height, width, _ = x.shape
        flat = tf.reshape(x, (batch, height, width * channels))
        pads = ((0, 0), more[0], (more[1][0] * channels, more[1][1] * channels))
        flat = tf.pad(flat, pads, constant_values=value)
        y = tf.reshape(flat, (batch, height + sum(more[0]), width + sum(more[1]), channels))
        return y, lambda d: crop_image(d, rows, columns)

    return fit(x)


def _largest(x: Tensor) -> Tensor:
    """(n, k, c) -> (n, c)."""
    count, size, channels = x.shape
    if size == 1:
        return tf.reshape(x, (count, channels))

    @tf.custom_gradient
    def largest(x: Tensor) -> Any:
        parts = [
            tf.reshape(tf.slice(x, (0, i, 0), (count, 1, channels)), (count, channels))
            for i in range(size)
        ]
        best = [parts[0]]
        for part in parts[1:]:
            best.append(tf.maximum(best[-1], part))

        def gradient(d: Tensor) -> Tensor:
            back = []
            for i in range(size - 1, 0, -1):
                won = d * positive(parts[i] - best[i - 1])
                back.append(won)
                d = d - won
            back.append(d)
            return tf.reshape(tf.concat(back[::-1], 1), (count, size, channels))

        return best[-1], gradient

    return largest(x)


def _sum(x: Tensor) -> Tensor:
    """(n, k, c) -> (n, c)."""
    count, size, channels = x.shape
    if size == 1:
        return tf.reshape(x, (count, channels))

    @tf.custom_gradient
    def total(x: Tensor) -> Any:
        parts = [tf.slice(x, (0, i, 0), (count, 1, channels)) for i in range(size)]
        y = tf.reshape(sum(parts[1:], parts[0]), (count, channels))
        return y, lambda d: tf.reshape(tf.concat([d] * size, 1), (count, size, channels))

    return total(x)
