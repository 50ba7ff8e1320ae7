"""Padding as TensorFlow counts it, and as the interpreter does it fast."""

from typing import Any

import tensorflow as tf

Tensor = Any  # TensorFlow ships no usable types


def amounts(
    length: int, kernel: int, stride: int, padding: str, dilation: int = 1
) -> tuple[int, int, int]:
    """Zeros before and after one axis, and the length that comes out; "same" as TensorFlow does."""
    reach = (kernel - 1) * dilation + 1
    match padding:
        case "valid":
            return 0, 0, (length - reach) // stride + 1
        case "same":
            out = -(-length // stride)
            total = max((out - 1) * stride + reach - length, 0)
            return total // 2, total - total // 2, out
        case "causal":
            return reach - 1, 0, (length - 1) // stride + 1
        case _:
            raise ValueError(f"no padding is called {padding!r}")


def at_least_0(before: int, after: int) -> tuple[int, int]:
    """Negative amounts become 0."""
    return max(before, 0), max(after, 0)


def pad_image(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Zeros around (batch, height, width, channels).

    Width and channels are padded as one axis: the interpreter copies runs of the last axis, and
    one run a row is many times faster than one a pixel.
    """
    if rows == (0, 0) and columns == (0, 0):
        return x
    batch, height, width, channels = x.shape
    flat = tf.reshape(x, (batch, height, width * channels))
    flat = tf.pad(flat, ((0, 0), rows, (columns[0] * channels, columns[1] * channels)))
    return tf.reshape(flat, (batch, height + sum(rows), width + sum(columns), channels))


def crop_image(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """The inverse of `pad_image`; negative amounts pad."""
    x = pad_image(x, at_least_0(-rows[0], -rows[1]), at_least_0(-columns[0], -columns[1]))
    rows, columns = at_least_0(*rows), at_least_0(*columns)
    if rows == (0, 0) and columns == (0, 0):
        return x
    batch, height, width, channels = x.shape
    height, wide = height - sum(rows), width - sum(columns)
    flat = tf.reshape(x, (batch, x.shape[1], width * channels))
    flat = tf.slice(flat, (0, rows[0], columns[0] * channels), (batch, height, wide * channels))
    return tf.reshape(flat, (batch, height, wide, channels))
