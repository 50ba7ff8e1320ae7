"""Multi-head attention."""

import math
from typing import Any

import tensorflow as tf

from qflare.authoring import ops
from qflare.authoring.layers.base import Apply, Pass, plain, refuse
from qflare.authoring.layers.random import dropped
from qflare.authoring.network import Tensor
from qflare.authoring.ops.activations import softmax


def multi_head_attention(layer: Any) -> Apply:
    """Vaswani et al. 2017, arXiv:1706.03762, over sequences (batch, steps, width)."""
    plain(layer)
    heads, depth = layer.num_heads, layer.key_dim
    rate = float(layer.dropout)

    def heads_of(run: Pass, part: Any, x: Tensor) -> Tensor:
        """(batch, steps, width) -> (batch, heads, steps, depth)."""
        kernel = run.weight(part.kernel)
        size = kernel.shape[-1]
        bias = None if part.bias is None else tf.reshape(run.weight(part.bias), (heads * size,))
        y = ops.dense(x, tf.reshape(kernel, (x.shape[-1], heads * size)), bias)
        return tf.transpose(tf.reshape(y, (*x.shape[:2], heads, size)), (0, 2, 1, 3))

    def apply(
        run: Pass, query: Tensor, value: Tensor, key: Tensor | None = None, **options: Any
    ) -> Tensor:
        wanted = sorted(
            name for name, given in options.items() if given is not None and given is not False
        )
        if wanted:
            refuse(layer, ", ".join(wanted), "attend to every step")
        if len(query.shape) != 3 or len(value.shape) != 3:
            refuse(layer, "inputs that aren't (batch, steps, width)", "use Reshape before")
        q = heads_of(run, layer.query_dense, query) * (1.0 / math.sqrt(depth))
        k = heads_of(run, layer.key_dense, value if key is None else key)
        v = heads_of(run, layer.value_dense, value)
        shares = softmax(tf.matmul(q, k, transpose_b=True))
        if run.training and rate > 0:
            shares = dropped(run, shares, rate)
        mixed = tf.transpose(tf.matmul(shares, v), (0, 2, 1, 3))
        part = layer.output_dense
        rows = tf.reshape(mixed, (*query.shape[:2], heads * mixed.shape[-1]))
        kernel = run.weight(part.kernel)
        bias = None if part.bias is None else run.weight(part.bias)
        return ops.dense(rows, tf.reshape(kernel, (rows.shape[-1], kernel.shape[-1])), bias)

    return apply
