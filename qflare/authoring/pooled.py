"""Pool before bias and activation, where that gives the same.

The largest of a window stays the largest when a constant is added and when a function that never
falls is applied, so a convolution followed by max pooling may do both afterwards, on the few
numbers that are left: a twelfth of a training step of the small image CNN.
"""

from dataclasses import replace
from typing import Any, Final

import keras

from qflare.authoring.graph import Call, Graph
from qflare.authoring.layers.base import Apply, Pass, keras_function
from qflare.authoring.layers.convolution import finish, product
from qflare.authoring.network import Tensor

_CONVOLUTIONS: Final = (keras.layers.Conv1D, keras.layers.Conv2D)
_POOLS: Final = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)
_RISING: Final = {"elu", "linear", "relu", "relu6", "selu", "sigmoid", "softplus", "tanh"}


def pool_first(graph: Graph) -> Graph:
    """The same graph with each such pair as one call."""
    calls: list[Call] = []
    for call in graph.calls:
        before = calls[-1] if calls else None
        if before is not None and _pair(graph, before, call):
            calls[-1] = replace(before, output=call.output, apply=_joined(before.layer, call.apply))
        else:
            calls.append(call)
    return replace(graph, calls=tuple(calls))


def _pair(graph: Graph, first: Call, second: Call) -> bool:
    """Whether `second` pools what `first` convolves, and nobody else reads that."""
    return (
        type(first.layer) in _CONVOLUTIONS
        and type(second.layer) in _POOLS
        and not second.constant
        and second.inputs == (first.output,)
        and first.output != graph.output
        and sum(first.output in call.inputs for call in graph.calls) == 1
        and keras_function(first.layer, first.layer.activation) in _RISING
    )


def _joined(layer: Any, pool: Apply) -> Apply:
    convolve, end = product(layer), finish(layer)

    def apply(run: Pass, x: Tensor) -> Tensor:
        return end(run, pool(run, convolve(run, x)))

    return apply
