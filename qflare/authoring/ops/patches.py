"""Patches of an image, the band matrix that they are multiplied by, and both ways back.

Copying is most of what a convolution costs beside the product. One GATHER of runs, by indices that
are known beforehand, is half the copying of slices that are then concatenated.
"""

from typing import Any

import tensorflow as tf

from qflare.authoring.ops.blocks import Plan
from qflare.authoring.ops.padding import crop_image, pad_image

Tensor = Any


def patches(x: Tensor, plan: Plan) -> Tensor:
    """(batch, height, width, channels) -> (batch · blocks, length of a patch)."""
    height, width, channels = plan.image
    (top, _), (left, _), size = plan.rows, plan.columns, plan.size
    x = pad_image(x, (top, size[0] - height - top), (left, size[1] - width - left))
    if plan.plain:
        return tf.reshape(x, (-1, plan.length))
    if plan.few:
        return _by_convolution(x, plan)
    across, run = size[1] // plan.unit, plan.unit * channels
    if not plan.by_row:
        runs = tf.reshape(x, (plan.batch, size[0] * across, run))
        return tf.reshape(tf.gather(runs, plan.patch_indices(), axis=1), (-1, plan.length))
    runs = tf.reshape(x, (plan.batch * size[0], across, run))
    row = plan.blocks[1] * plan.reach[1] * channels
    wide = tf.reshape(tf.gather(runs, plan.patch_indices(), axis=1), (plan.batch, size[0], row))
    taps = [
        tf.reshape(
            tf.slice(wide, (0, i, 0), (plan.batch, plan.out[0], row)),
            (-1, plan.reach[1] * channels),
        )
        for i in range(plan.taps[0])
    ]
    return tf.concat(taps, 1) if len(taps) > 1 else taps[0]


def _by_convolution(x: Tensor, plan: Plan) -> Tensor:
    """The same by a constant kernel of ones and zeros: constant weights do get a fast kernel."""
    one_hot = tf.reshape(tf.eye(plan.length), (*plan.reach, plan.image[2], plan.length))
    found = tf.nn.conv2d(x, one_hot, (1, *plan.block, 1), "VALID")
    return tf.reshape(found, (-1, plan.length))


def band(kernel: Tensor, plan: Plan) -> Tensor:
    """(kh, kw, cin, cout) -> (length of a patch, cells cout): one shifted copy an output."""
    down, across = plan.block
    shifted = [
        tf.reshape(
            tf.pad(kernel, ((i, down - 1 - i), (j, across - 1 - j), (0, 0), (0, 0)))
            if plan.cells > 1
            else kernel,
            (plan.length, plan.filters),
        )
        for i in range(down)
        for j in range(across)
    ]
    return tf.concat(shifted, 1) if len(shifted) > 1 else shifted[0]


def unband(matrix: Tensor, plan: Plan) -> Tensor:
    """The sum over the copies: the transpose of `band`."""
    channels, filters = plan.image[2], plan.filters
    parts = []
    for cell in range(plan.cells):
        part = tf.slice(matrix, (0, cell * filters), (plan.length, filters))
        part = tf.reshape(part, (*plan.reach, channels, filters))
        start = (*divmod(cell, plan.block[1]), 0, 0)
        parts.append(tf.slice(part, start, (*plan.taps, channels, filters)))
    return sum(parts[1:], parts[0])


def to_image(y: Tensor, plan: Plan) -> Tensor:
    """Rows of blocks to an image; what the last blocks have too much is cut off."""
    (down, across), filters = plan.block, plan.filters
    if down > 1:
        runs = tf.reshape(y, (plan.batch, -1, across * filters))
        y = tf.gather(runs, plan.image_indices(), axis=1)
    wide = plan.blocks[1] * across
    image = tf.reshape(y, (plan.batch, plan.out[0], wide, filters))
    return crop_image(image, (0, 0), (0, wide - plan.out[1]))


def to_blocks(d: Tensor, plan: Plan) -> Tensor:
    """An image to rows of blocks, zeros where the last blocks have too much."""
    down, across = plan.block
    more = (plan.blocks[0] * down - plan.out[0], plan.blocks[1] * across - plan.out[1])
    d = pad_image(d, (0, more[0]), (0, more[1]))
    if down > 1:
        runs = tf.reshape(d, (plan.batch, -1, across * plan.filters))
        d = tf.gather(runs, plan.block_indices(), axis=1)
    return tf.reshape(d, (-1, plan.cells * plan.filters))
