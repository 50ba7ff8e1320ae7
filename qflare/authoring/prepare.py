"""From a Keras model to a `Network`: which weights train, and the forward pass.

Federated weights come in the order of Keras's `model.weights`: layer by layer, within a layer as
`layer.weights` has them. Initial values are those that the model has.
"""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from qflare.authoring.graph import Call, Graph, read_graph
from qflare.authoring.heads import without_activation
from qflare.authoring.layers.base import Pass, title
from qflare.authoring.layers.frozen import without_gradients
from qflare.authoring.network import Network, Step, Tensor, Trained
from qflare.authoring.pooled import pool_first
from qflare.authoring.prefix import frozen_prefix
from qflare.authoring.weights import Weights, sort_weights
from qflare.faults import LocalFault
from qflare.host.model.manifest import Task


def prepare(
    model: Any,
    *,
    task: Task,
    batch: int,
    batch_norm: Literal["average", "local", "frozen"],
    personal: Sequence[str],
    cache_features: bool,
) -> Network:
    """Give a Sequential or functional Keras model a forward pass that trains on a device.

    `task` is a manifest's. `batch_norm` is "average", "local" or "frozen" (docs/models.md);
    `personal` names layers (or nested models) whose weights never leave the device. With
    `cache_features` a frozen prefix becomes a function of its own. Unsupported names what can't be
    trained; LocalFault says what else to change.
    """
    graph = without_activation(read_graph(model), task)
    weights = sort_weights(graph, batch_norm, personal)
    graph = pool_first(without_gradients(graph, weights.has_trained))
    shape, dtype = _input_shape(model), _input_dtype(model, graph)
    whole = _Run(graph.calls, 0, graph.output, weights)
    noise, random, output = _trial(whole, (batch, *shape), tf.as_dtype(dtype))
    _check_output(graph, task, shape, output)

    def still(call: Call) -> bool:
        return not weights.has_trained(call) and call.output not in random

    split = frozen_prefix(graph, still, weights.has_frozen) if cache_features else None
    features, features_shape, rest = None, None, whole
    if split is not None:
        before, cut = split
        prefix = _Run(tuple(graph.calls[i] for i in before), 0, cut, weights)
        after = tuple(call for i, call in enumerate(graph.calls) if i not in before)
        rest = _Run(after, cut, graph.output, weights)
        _, _, features_shape = _trial(prefix, (batch, *shape), tf.as_dtype(dtype))

        def features(x: Tensor) -> Tensor:
            return prefix(x, Step(training=False, mask=None, noise=None))[0]

    return Network(
        federated=weights.federated,
        personal=weights.personal,
        frozen=weights.frozen,
        noise=noise,
        input_shape=shape,
        output_shape=output,
        input_dtype=dtype,
        batch=batch,
        features_shape=features_shape,
        batch_norm=weights.batch_norm,
        forward=rest,
        features=features,
    )


class _Run:
    """Some of the calls, from one slot to another."""

    def __init__(self, calls: Sequence[Call], start: int, end: int, weights: Weights) -> None:
        self._calls = calls
        self._start, self._end = start, end
        self._weights = weights
        self.random: set[int] = set()  # outputs of calls that drew noise

    def __call__(self, x: Tensor, step: Step) -> tuple[Tensor, list[tuple[Trained, Tensor]]]:
        run = Pass(step, self._weights.readers, self._weights.statistics)
        return self.through(x, run), run.assigned

    def through(self, x: Tensor, run: Pass) -> Tensor:
        tensors = {self._start: x}
        for call in self._calls:
            args, kwargs = call.filled(tensors)
            taken = run.taken
            with tf.name_scope(call.layer.name):
                tensors[call.output] = call.apply(run, *args, **kwargs)
            if run.taken > taken:
                self.random.add(call.output)
        return tensors[self._end]


def _trial(
    run: _Run, shape: tuple[int, ...], dtype: Any
) -> tuple[int, frozenset[int], tuple[int, ...]]:
    """Trace a training pass: noise per example, the calls that draw it, the output's shape."""
    found: list[tuple[int, tuple[int, ...]]] = []

    def trace(x: Tensor, mask: Tensor) -> Tensor:
        step = Step(training=True, mask=mask, noise=None)
        state = Pass(step, run._weights.readers, run._weights.statistics, counting=True)
        y = run.through(x, state)
        found.append((state.taken, tuple(y.shape[1:])))
        return y

    tf.function(trace, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, dtype), tf.TensorSpec(shape[:1], tf.float32)
    )
    noise, output = found[0]
    return noise, frozenset(run.random), output


def _input_shape(model: Any) -> tuple[int, ...]:
    shape = tuple(model.inputs[0].shape[1:])
    if None in shape or not shape:
        raise LocalFault(
            f"the model's input has the shape {shape}; give keras.Input every size, at least one"
        )
    return shape


def _input_dtype(model: Any, graph: Graph) -> Literal["float32", "int32"]:
    """int32 for the numbers that an Embedding takes, else float32 (images of bytes too)."""
    readers = [call.layer for call in graph.calls if 0 in call.inputs]
    whole = isinstance(readers[0], keras.layers.Embedding) and len(readers) == 1
    declared = "int" in keras.backend.standardize_dtype(model.inputs[0].dtype)
    embeds = any(isinstance(call.layer, keras.layers.Embedding) for call in graph.calls)
    return "int32" if whole or (declared and embeds) else "float32"


def _check_output(graph: Graph, task: str, shape: tuple[int, ...], output: tuple[int, ...]) -> None:
    last = title(graph.calls[-1].layer)
    if task == "classification" and (len(output) != 1 or output[0] < 2):
        raise LocalFault(
            f"{last} gives {output} for an example; a classification wants one number for each of "
            "2 or more classes (2 units with softmax for yes and no)"
        )
    if task == "autoencoder" and output != shape:
        raise LocalFault(f"{last} gives {output}; an autoencoder gives its input's shape, {shape}")
    if not output:
        raise LocalFault(f"{last} gives a single number without an axis; use Reshape((1,))")
