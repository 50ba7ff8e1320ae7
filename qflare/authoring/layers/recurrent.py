"""Recurrent layers over sequences (batch, steps, width), one copy of the cell for each step.

What doesn't depend on the state, the product with the input, is one product for all steps.
"""

from collections.abc import Callable
from typing import Any, Final

import tensorflow as tf

from qflare.authoring import ops
from qflare.authoring.layers.activation import activation_of
from qflare.authoring.layers.base import Apply, Make, Pass, only, plain, refuse
from qflare.authoring.network import Tensor

STEPS_MAX: Final = 128
# (run, parts of the input's product by step, batch) -> the state that is the output, by step
Cell = Callable[[Pass, Tensor], list[Tensor]]


def _recurrent(steps_of: Callable[[Any], Callable[[Pass, Tensor], list[Tensor]]]) -> Make:
    def make(layer: Any) -> Apply:
        plain(layer)
        dropout = "use a Dropout layer before"
        only(layer, dropout, dropout=0.0, recurrent_dropout=0.0)
        only(layer, "use stateful=False: batches don't follow each other", stateful=False)
        only(layer, "use return_state=False", return_state=False)
        steps = steps_of(layer)

        def apply(run: Pass, x: Tensor) -> Tensor:
            if x.shape[1] > STEPS_MAX:
                refuse(
                    layer,
                    f"{x.shape[1]} steps, of at most {STEPS_MAX},",
                    "downsample before (a strided Conv1D, AveragePooling1D), or use Conv1D",
                )
            states = steps(run, x)
            return tf.stack(states, axis=1) if layer.return_sequences else states[-1]

        return apply

    return make


def _projected(run: Pass, layer: Any, x: Tensor, bias: Tensor | None) -> list[Tensor]:
    """The input's product with the kernel at each step, in the order in which steps are taken."""
    product = ops.dense(x, run.weight(layer.cell.kernel), bias)
    steps: list[Tensor] = tf.unstack(product, axis=1)
    return steps[::-1] if layer.go_backwards else steps


def _simple(layer: Any) -> Callable[[Pass, Tensor], list[Tensor]]:
    after = activation_of(layer)

    def steps(run: Pass, x: Tensor) -> list[Tensor]:
        bias = run.weight(layer.cell.bias) if layer.use_bias else None
        kernel = run.weight(layer.cell.recurrent_kernel)
        states: list[Tensor] = []
        for now in _projected(run, layer, x, bias):
            inner = now + tf.matmul(states[-1], kernel) if states else now
            states.append(after(run, inner))
        return states

    return steps


def _lstm(layer: Any) -> Callable[[Pass, Tensor], list[Tensor]]:
    """Hochreiter, Schmidhuber 1997; gates in Keras's order: input, forget, cell, output."""
    after, gate = activation_of(layer), activation_of(layer, layer.recurrent_activation)

    def steps(run: Pass, x: Tensor) -> list[Tensor]:
        bias = run.weight(layer.cell.bias) if layer.use_bias else None
        kernel = run.weight(layer.cell.recurrent_kernel)
        states: list[Tensor] = []
        carry = None
        for now in _projected(run, layer, x, bias):
            inner = now + tf.matmul(states[-1], kernel) if states else now
            i, f, c, o = tf.split(inner, 4, axis=1)
            fresh = gate(run, i) * after(run, c)
            carry = fresh if carry is None else gate(run, f) * carry + fresh
            states.append(gate(run, o) * after(run, carry))
        return states

    return steps


def _gru(layer: Any) -> Callable[[Pass, Tensor], list[Tensor]]:
    """Cho et al. 2014, arXiv:1406.1078; gates in Keras's order: update, reset, candidate."""
    after, gate = activation_of(layer), activation_of(layer, layer.recurrent_activation)
    units = layer.units

    def steps(run: Pass, x: Tensor) -> list[Tensor]:
        outer, inner = None, None
        if layer.use_bias:
            bias = run.weight(layer.cell.bias)
            outer = bias
            if layer.reset_after:
                outer, inner = (tf.reshape(b, (3 * units,)) for b in tf.split(bias, 2, axis=0))
        kernel = run.weight(layer.cell.recurrent_kernel)
        gates, candidate = tf.split(kernel, (2 * units, units), axis=1)
        state = tf.zeros((x.shape[0], units))
        states: list[Tensor] = []
        for now in _projected(run, layer, x, outer):
            if layer.reset_after:
                z1, r1, h1 = tf.split(now, 3, axis=1)
                z2, r2, h2 = tf.split(ops.dense(state, kernel, inner), 3, axis=1)
                z, r = gate(run, z1 + z2), gate(run, r1 + r2)
                fresh = after(run, h1 + r * h2)
            else:
                both, h1 = tf.split(now, (2 * units, units), axis=1)
                z, r = tf.split(gate(run, both + tf.matmul(state, gates)), 2, axis=1)
                fresh = after(run, h1 + tf.matmul(r * state, candidate))
            state = fresh + z * (state - fresh)
            states.append(state)
        return states

    return steps


simple_rnn = _recurrent(_simple)
lstm = _recurrent(_lstm)
gru = _recurrent(_gru)
