"""Forward and backward passes of the watch CNN, written out in operators that LiteRT has.

A convolution is a matrix product over patches (im2col). TensorFlow's own gradient of Conv2D needs
operators that the interpreter lacks, and a convolution whose weights train gets no fast kernel
there, while a matrix product does. The stride is always 2: two neighbouring samples are folded
into one row first, so that taking patches is a concatenation of `kernel / 2` plain slices.

Only the developer's machine imports this module; it needs TensorFlow.
"""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

Tensor = Any  # TensorFlow ships no usable types

STRIDE = 2


@dataclass(frozen=True, slots=True)
class Conv:
    """A strided convolution with bias and ReLU: `length` x `channels` in, half the length out."""

    length: int
    channels: int
    kernel: int
    filters: int

    @property
    def taps(self) -> int:
        return self.kernel // STRIDE

    @property
    def out_length(self) -> int:
        return self.length // STRIDE

    @property
    def row(self) -> int:
        """Numbers in a folded row: two samples of every channel."""
        return STRIDE * self.channels

    @property
    def padding(self) -> tuple[int, int]:
        """Folded rows of zeros before and after, so that the length is exactly halved."""
        before = (self.taps - 1) // 2
        return before, self.taps - 1 - before

    def patches(self, x: Tensor, batch: int) -> Tensor:
        """(batch, length, channels) -> (batch * out_length, kernel * channels)."""
        rows = tf.reshape(x, (batch, self.out_length, self.row))
        padded = tf.pad(rows, ((0, 0), self.padding, (0, 0)))
        size = (batch, self.out_length, self.row)
        taps = [tf.slice(padded, (0, t, 0), size) for t in range(self.taps)]
        return tf.reshape(tf.concat(taps, axis=2), (batch * self.out_length, -1))

    def forward(self, patches: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """(batch * out_length, kernel * channels) -> (batch * out_length, filters), after ReLU."""
        return tf.nn.relu(tf.matmul(patches, kernel) + bias)

    def backward_input(self, d_linear: Tensor, kernel: Tensor, batch: int) -> Tensor:
        """Gradient of the input, (batch * length, channels), from that of the linear part."""
        d_patches = tf.reshape(
            tf.matmul(d_linear, kernel, transpose_b=True),
            (batch, self.out_length, self.taps * self.row),
        )
        before, _ = self.padding
        total = None
        for t in range(self.taps):
            tap = tf.slice(d_patches, (0, 0, t * self.row), (batch, self.out_length, self.row))
            # The inverse of `patches`: tap t of output row i read padded row i + t.
            wide = tf.pad(tap, ((0, 0), (t, self.taps - 1 - t), (0, 0)))
            total = wide if total is None else total + wide
        rows = tf.slice(total, (0, before, 0), (batch, self.out_length, self.row))
        return tf.reshape(rows, (batch * self.length, self.channels))


def relu_gradient(d_out: Tensor, out: Tensor) -> Tensor:
    """Gradient through ReLU, from its output: the stock ReluGrad has no builtin kernel."""
    return d_out * tf.cast(out > 0.0, tf.float32)
