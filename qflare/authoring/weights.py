"""Which of a model's weights train, where they live, and which are constants."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import keras
import numpy as np
import tensorflow as tf

from qflare.authoring.graph import Call, Graph
from qflare.authoring.layers.base import refuse, title
from qflare.authoring.network import Tensor, Trained
from qflare.faults import LocalFault

PREFIX: Final = "personal_"
NAME_MAX: Final = 200
BatchNorm = Literal["none", "average", "local", "frozen"]
# Layers whose weights are constants of the data, not of learning.
_PREPROCESSING: Final = (keras.layers.Normalization, keras.layers.Rescaling)


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a graph's layers. Dictionaries go by the id of a Keras variable."""

    federated: tuple[Trained, ...]
    personal: tuple[Trained, ...]
    statistics: dict[int, Trained]
    readers: dict[int, Callable[[], Tensor]]
    trained: frozenset[int]
    constants: frozenset[int]  # without those of preprocessing
    frozen: int  # scalars in them
    batch_norm: BatchNorm

    def has_frozen(self, call: Call) -> bool:
        """Whether the layer has constants that stand for weights."""
        return any(id(v) in self.constants for v in getattr(call.layer, "weights", ()))

    def has_trained(self, call: Call) -> bool:
        """Whether training changes the layer."""
        return any(id(v) in self.trained for v in getattr(call.layer, "weights", ()))


def sort_weights(
    graph: Graph, batch_norm: Literal["average", "local", "frozen"], personal: Sequence[str]
) -> Weights:
    """Sort every weight; LocalFault if nothing trains or a name of `personal` is wrong."""
    own = _personal_layers(graph, personal)
    federated: list[Trained] = []
    kept: list[Trained] = []
    statistics: dict[int, Trained] = {}
    readers: dict[int, Callable[[], Tensor]] = {}
    learned, constants = set(), set()
    frozen = 0
    normalisation: BatchNorm = "none"
    names: set[str] = set()
    for layer in graph.layers:
        moving: set[int] = set()
        local = id(layer) in own
        if isinstance(layer, keras.layers.BatchNormalization):
            moves = _moves(graph, layer) and batch_norm != "frozen"
            if normalisation in ("none", "frozen"):
                normalisation = batch_norm if moves else "frozen"
            moving = {id(layer.moving_mean), id(layer.moving_variance)} if moves else set()
            local = local or (moves and batch_norm == "local")
        for variable in layer.weights:
            value = np.asarray(variable, np.float32)
            if not (id(variable) in moving or (layer.trainable and variable.trainable)):
                readers[id(variable)] = _constant(value)
                if not isinstance(layer, _PREPROCESSING):
                    constants.add(id(variable))
                    frozen += value.size
                continue
            name = _name(layer, variable, names)
            names.add(name)
            trained = Trained(name, tf.Variable(value, name=name), id(variable) in moving)
            readers[id(variable)] = _reader(trained.variable)
            learned.add(id(variable))
            (kept if local else federated).append(trained)
            if trained.statistic:
                statistics[id(variable)] = trained
    _something(federated, kept)
    return Weights(
        tuple(federated),
        tuple(kept),
        statistics,
        readers,
        frozenset(learned),
        frozenset(constants),
        frozen,
        normalisation,
    )


def _reader(variable: Any) -> Callable[[], Tensor]:
    return lambda: tf.convert_to_tensor(variable)


def _constant(value: Any) -> Callable[[], Tensor]:
    return lambda: tf.constant(value)


def _moves(graph: Graph, layer: Any) -> bool:
    """Whether training moves the statistics of a batch normalisation."""
    calls = sum(call.layer is layer for call in graph.calls)
    if layer.trainable and calls > 1:
        refuse(layer, "a batch normalisation that is called twice", "use one layer for each call")
    return bool(layer.trainable)


def _name(layer: Any, variable: Any, taken: set[str]) -> str:
    """layer/weight; longer where that isn't unique."""
    alike = sum(v.name == variable.name for v in layer.weights)
    _, found, rest = variable.path.partition(f"{layer.name}/")
    short = variable.name if alike == 1 or not found else rest
    name = f"{layer.name}/{short}"
    if name in taken:
        name = variable.path
    base, count = name[: NAME_MAX - 4], 2
    name = name[:NAME_MAX]
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    return name


def _personal_layers(graph: Graph, names: Sequence[str]) -> set[int]:
    """The layers (by id) whose weights stay: named, or in a named model, or marked so."""
    found, used = set(), set()
    for layer in graph.layers:
        for part in (layer, *graph.inside[id(layer)]):
            used |= {part.name} & set(names)
            marked = part.name.startswith(PREFIX) or getattr(part, "personal", False) is True
            if (part.name in names or marked) and layer.weights:
                found.add(id(layer))
    for name in names:
        if name not in used:
            known = ", ".join(layer.name for layer in graph.layers if layer.weights)
            raise LocalFault(f"no layer is called {name!r}; layers with weights: {known}")
        here = [
            layer
            for layer in graph.layers
            if name in (layer.name, *(m.name for m in graph.inside[id(layer)]))
        ]
        if not any(layer.trainable and layer.trainable_weights for layer in here):
            raise LocalFault(f"{title(here[0])} has nothing to train; don't name it as personal")
    return found


def _something(federated: Sequence[Trained], personal: Sequence[Trained]) -> None:
    if any(not t.statistic for t in federated):
        return
    if personal:
        raise LocalFault("every weight is personal; leave some that the fleet can learn together")
    raise LocalFault("no weight of the model trains; set trainable=True on some layer")


def scalars(weights: Sequence[Trained]) -> int:
    """How many numbers they are."""
    return sum(math.prod(t.variable.shape) for t in weights)
