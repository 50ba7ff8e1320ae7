"""A model's last activation: the loss wants what goes into it."""

from dataclasses import replace
from typing import Any, Final

import keras

from qflare.authoring.graph import Graph
from qflare.authoring.layers.base import Apply, keras_function, refuse
from qflare.authoring.layers.table import LAYERS

# What may stand between the last activation and the output without changing a number.
_MOVES: Final = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity)
_WANTED: Final = {"classification": "softmax", "multilabel": "sigmoid"}


def without_activation(graph: Graph, task: str) -> Graph:
    """The graph up to the logits of a classification or multilabel task, else as it is.

    A softmax (sigmoid) at the end is taken off; no activation counts as logits. Anything else
    there is refused.
    """
    wanted = _WANTED.get(task)
    if wanted is None:
        return graph
    index = _last(graph, graph.output)
    while isinstance(graph.calls[index].layer, _MOVES):
        index = _last(graph, graph.calls[index].inputs[0])
    call = graph.calls[index]
    found = _activation(call.layer)
    if found == "linear":
        return graph
    if found != wanted:
        _refuse(call.layer, found, task)
    calls = list(graph.calls)
    calls[index] = replace(call, apply=_bare(call.layer))
    return replace(graph, calls=tuple(calls))


def _last(graph: Graph, slot: int) -> int:
    """The call that gives a slot."""
    return next((i for i, call in enumerate(graph.calls) if call.output == slot), 0)


def _activation(layer: Any) -> str:
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if isinstance(layer, keras.layers.ReLU | keras.layers.LeakyReLU | keras.layers.ELU):
        return "relu"
    if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        return "tanh"
    if isinstance(layer, keras.layers.TimeDistributed):
        return _activation(layer.layer)
    function = getattr(layer, "activation", None)
    return "linear" if function is None else keras_function(layer, function)


def _refuse(layer: Any, found: str, task: str) -> None:
    if task == "classification" and found == "sigmoid":
        nearest = "use 2 units (or one a class) with softmax, or --task multilabel"
    elif task == "multilabel" and found == "softmax":
        nearest = "use sigmoid, or --task classification"
    else:
        nearest = f"end with Dense(classes, activation={_WANTED[task]!r}), or no activation"
    refuse(layer, f"{found} at the end of a model for {task}", nearest)


class _Linear:
    """A layer, but for its activation."""

    activation = staticmethod(keras.activations.linear)

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def _bare(layer: Any) -> Apply:
    """The layer's implementation without its activation."""
    if isinstance(layer, keras.layers.Softmax | keras.layers.Activation):
        return lambda _, x: x
    if isinstance(layer, keras.layers.TimeDistributed):
        refuse(layer, "a last layer in TimeDistributed", "use Dense alone: it takes the last axis")
    return LAYERS[type(layer)](_Linear(layer))
