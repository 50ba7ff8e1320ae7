"""Depthwise convolution: each channel has kernels of its own, so there is no matrix product.

Sums of shifted images times one tap each, which the interpreter's fast elementwise kernels take.
"""

from typing import Any

import tensorflow as tf

from qflare.authoring.ops.convolution import add_bias, padded
from qflare.authoring.ops.padding import amounts, crop_image, pad_image

Tensor = Any


def depthwise_conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    strides: tuple[int, int] = (1, 1),
    padding: str = "valid",
) -> Tensor:
    """x (batch, h, w, c), kernel (kh, kw, c, m): (batch, out_h, out_w, c m)."""
    kh, kw, channels, multiplier = kernel.shape
    top, bottom, out_h = amounts(x.shape[1], kh, strides[0], padding)
    left, right, out_w = amounts(x.shape[2], kw, strides[1], padding)
    x = padded(x, (top, bottom), (left, right))
    if multiplier > 1:
        batch, height, width, _ = x.shape
        x = tf.reshape(x, (batch, height, width, channels, 1))
        x = x * tf.ones((1, 1, 1, 1, multiplier))
        x = tf.reshape(x, (batch, height, width, channels * multiplier))
    y = _taps(x, tf.reshape(kernel, (kh, kw, channels * multiplier)), strides, (out_h, out_w))
    return y if bias is None else add_bias(y, bias)


def _taps(x: Tensor, kernel: Tensor, strides: tuple[int, int], out: tuple[int, int]) -> Tensor:
    sh, sw = strides

    @tf.custom_gradient
    def convolve(x: Tensor, kernel: Tensor) -> Any:
        batch, height, width, channels = x.shape
        kh, kw, _ = kernel.shape
        places = [(i, j) for i in range(kh) for j in range(kw)]
        grid = (batch, out[0], out[1], channels)
        # Room for the last, partly used stride.
        room_h, room_w = (kh - 1 + out[0] * sh), (kw - 1 + out[1] * sw)
        more = ((0, max(room_h - height, 0)), (0, max(room_w - width, 0)))
        large = pad_image(x, *more)

        def tap(i: int, j: int) -> Tensor:
            part = tf.slice(large, (0, i, j, 0), (batch, out[0] * sh, out[1] * sw, channels))
            return take_every(part, sh, sw)

        def weight(i: int, j: int) -> Tensor:
            return tf.reshape(tf.slice(kernel, (i, j, 0), (1, 1, channels)), (channels,))

        parts = [tap(i, j) for i, j in places]
        y = sum(part * weight(i, j) for part, (i, j) in zip(parts, places, strict=True))

        def gradient(d: Tensor) -> Any:
            d = tf.reshape(d, grid)
            d_kernel = tf.stack(
                [tf.reduce_sum(tf.reshape(p * d, (-1, channels)), axis=0) for p in parts]
            )
            total = None
            for i, j in places:
                spread = put_every(d * weight(i, j), sh, sw)
                after_h = large.shape[1] - i - spread.shape[1]
                after_w = large.shape[2] - j - spread.shape[2]
                placed = pad_image(spread, (i, after_h), (j, after_w))
                total = placed if total is None else total + placed
            return crop_image(total, *more), tf.reshape(d_kernel, (kh, kw, channels))

        return y, gradient

    return convolve(x, kernel)


def take_every(x: Tensor, sh: int, sw: int) -> Tensor:
    """Each sh-th row and sw-th column of (batch, h sh, w sw, c)."""
    batch, height, width, channels = x.shape
    if sh > 1:
        x = tf.reshape(x, (batch * height // sh, sh, width * channels))
        x = tf.slice(x, (0, 0, 0), (batch * height // sh, 1, width * channels))
        height //= sh
    if sw > 1:
        x = tf.reshape(x, (batch * height * width // sw, sw * channels))
        x = tf.slice(x, (0, 0), (batch * height * width // sw, channels))
        width //= sw
    return tf.reshape(x, (batch, height, width, channels))


def put_every(d: Tensor, sh: int, sw: int) -> Tensor:
    """The transpose of `take_every`: zeros between."""
    batch, height, width, channels = d.shape
    if sw > 1:
        d = tf.pad(tf.reshape(d, (-1, channels)), ((0, 0), (0, (sw - 1) * channels)))
        width *= sw
    if sh > 1:
        d = tf.reshape(d, (batch * height, width * channels))
        d = tf.pad(d, ((0, 0), (0, (sh - 1) * width * channels)))
        height *= sh
    return tf.reshape(d, (batch, height, width, channels))
