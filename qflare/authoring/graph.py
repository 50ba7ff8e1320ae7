"""A Keras model as a list of calls, in the order in which they can be done.

Nested models are laid flat. Keras itself walks the graph: `keras.models.clone_model` calls a
function of ours for each call in the model; we note it, and answer with a stand-in's output so
that the model itself isn't touched.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import keras

from qflare.authoring.layers.base import Apply, refuse
from qflare.authoring.layers.table import make
from qflare.authoring.network import Tensor
from qflare.authoring.unsupported import Unsupported
from qflare.faults import LocalFault


@dataclass(frozen=True)
class Slot:
    """Where a tensor is kept: 0 is the model's input."""

    number: int


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer. `args` and `kwargs` are the call's, with slots for tensors."""

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: int
    apply: Apply
    constant: bool = False  # depends on nothing that trains: no gradient passes it

    @property
    def inputs(self) -> tuple[int, ...]:
        """The slots it reads."""
        found = keras.tree.flatten((self.args, self.kwargs))
        return tuple(leaf.number for leaf in found if isinstance(leaf, Slot))

    def filled(self, tensors: dict[int, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Its arguments with tensors in place of slots."""

        def fill(leaf: Any) -> Any:
            return tensors[leaf.number] if isinstance(leaf, Slot) else leaf

        args, kwargs = keras.tree.map_structure(fill, (self.args, self.kwargs))
        return args, kwargs


@dataclass(frozen=True, eq=False)
class Graph:
    """The calls from slot 0, the input, to `output`."""

    calls: tuple[Call, ...]
    output: int  # a slot
    layers: tuple[Any, ...]  # each once, in the order of Keras's `model.weights`
    inside: dict[int, tuple[Any, ...]]  # the nested models that a layer (by id) is in


class _StandIn(keras.Operation):  # type: ignore[misc]
    """Takes a layer's place in the walk: outputs of the same shapes, nothing else."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self._layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        spec = self._layer.compute_output_spec(*args, **kwargs)
        return keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, dtype=t.dtype), spec)


def read_graph(model: Any) -> Graph:
    """Lay a Sequential or functional model flat; Unsupported names a layer that can't be."""
    walk = _Walk()
    output = walk.model(model, Slot(0))
    layers: dict[int, Any] = {}
    inside: dict[int, tuple[Any, ...]] = {}
    called = {id(call.layer) for call in walk.calls}
    for layer, path in _members(model, ()):
        if id(layer) in called:
            layers.setdefault(id(layer), layer)
            inside.setdefault(id(layer), path)
    return Graph(tuple(walk.calls), output.number, tuple(layers.values()), inside)


def _members(model: Any, path: tuple[Any, ...]) -> list[tuple[Any, tuple[Any, ...]]]:
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model) and _walkable(layer):
            found += _members(layer, (*path, layer))
        else:
            found.append((layer, path))
    return found


def _walkable(model: Any) -> bool:
    """Whether it is Sequential or functional: others have no graph."""
    return isinstance(model, keras.Sequential) or bool(getattr(model, "inputs", None))


class _Walk:
    """The calls found so far; slots are given in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._made: dict[int, Apply] = {}
        self._slots = itertools.count(1)

    def model(self, model: Any, source: Slot) -> Slot:
        """Note the calls of a model that is given `source`; the slot of its output."""
        inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
        if not inputs or not outputs:
            raise LocalFault(
                f"the model {model.name!r} has no input yet; start it with keras.Input(shape)"
            )
        if len(inputs) != 1 or len(outputs) != 1:
            raise Unsupported(
                f"the model {model.name!r} with {len(inputs)} inputs and {len(outputs)} outputs",
                "give it one input and one output; join several on an axis before",
            )
        slots: dict[int, Slot] = {}
        kept: list[Any] = []  # alive as long as their ids matter

        def note(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.pop("mask", None) is not None:
                refuse(layer, "a mask of steps", "use windows of one length")
            # What the model's caller says of training wins over what a call in the graph says.
            kwargs.pop("training", None)
            # The copy's input is the only tensor that no call gave.
            call_args, call_kwargs = keras.tree.map_structure(
                lambda leaf: (
                    slots.get(id(leaf), source) if isinstance(leaf, keras.KerasTensor) else leaf
                ),
                (args, kwargs),
            )
            slot = self._call(layer, call_args, call_kwargs)
            result = _StandIn(layer)(*args, **kwargs)
            kept.append((args, kwargs, result))
            tensors = keras.tree.flatten(result)
            if len(tensors) != 1:
                refuse(layer, f"{len(tensors)} outputs", "ask it for one output")
            slots[id(tensors[0])] = slot
            return result

        # The given model may be compiled or of a class of its own; this one is the graph alone.
        plain = keras.Model(inputs[0], outputs[0])
        copy = keras.models.clone_model(
            plain, clone_function=lambda layer: layer, call_function=note
        )
        return slots[id(copy.outputs[0])]

    def _call(self, layer: Any, args: Any, kwargs: dict[str, Any]) -> Slot:
        if isinstance(layer, keras.Model) and _walkable(layer):
            (source,) = keras.tree.flatten((args, kwargs))
            return self.model(layer, source)
        if id(layer) not in self._made:
            self._made[id(layer)] = make(layer)
        slot = Slot(next(self._slots))
        apply = self._made[id(layer)]
        self.calls.append(Call(layer, args, kwargs, slot.number, apply))
        return slot
