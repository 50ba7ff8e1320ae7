"""What every layer's implementation is given, and how it refuses.

An implementation is a function `make(layer) -> apply`: `make` looks at the Keras layer's options
and refuses what it can't do; `apply(run, *inputs)` computes the output with differentiable builtin
operators. `run` is one pass through the network.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import keras
import tensorflow as tf

from qflare.authoring.network import Step, Tensor, Trained
from qflare.authoring.unsupported import Unsupported

Apply = Callable[..., Tensor]  # (Pass, *inputs) -> output
Make = Callable[[Any], Apply]
CHANNELS_LAST: Final = "use data_format='channels_last'"


class Pass:
    """One pass through the network: what layers read, draw and leave behind.

    `readers` gives the value of a Keras variable by its id. A pass that counts takes zeros for
    noise, and its `taken` says afterwards how many numbers an example needs.
    """

    def __init__(
        self,
        step: Step,
        readers: Mapping[int, Callable[[], Tensor]],
        statistics: Mapping[int, Trained],
        *,
        counting: bool = False,
    ) -> None:
        self.training = step.training
        self.mask = step.mask
        self.taken = 0
        self.assigned: list[tuple[Trained, Tensor]] = []
        self._noise = step.noise
        self._readers = readers
        self._statistics = statistics
        self._counting = counting
        self._values: dict[int, Tensor] = {}

    def weight(self, variable: Any) -> Tensor:
        """The value of a Keras variable; read once a pass, however often it is used."""
        key = id(variable)
        if key not in self._values:
            self._values[key] = self._readers[key]()
        return self._values[key]

    def noise(self, batch: int, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers (batch, *shape) that no other layer gets."""
        count = math.prod(shape)
        start, self.taken = self.taken, self.taken + count
        if self._counting:
            return tf.zeros((batch, *shape))
        if self._noise is None:
            raise ValueError("a training pass of a model with dropout needs noise")
        return tf.reshape(tf.slice(self._noise, (0, start), (batch, count)), (batch, *shape))

    def statistic(self, variable: Any) -> bool:
        """Whether training moves this statistic of batch normalisation."""
        return id(variable) in self._statistics

    def assign(self, variable: Any, value: Tensor) -> None:
        """Leave a moving statistic's new value behind."""
        self.assigned.append((self._statistics[id(variable)], value))


def title(layer: Any) -> str:
    """Which layer: its name and class."""
    return f"{layer.name} ({type(layer).__name__})"


def refuse(layer: Any, what: str, nearest: str) -> NoReturn:
    """Raise Unsupported: the layer, what about it, and what to use in its place."""
    raise Unsupported(f"{title(layer)}: {what}", nearest)


def only(layer: Any, nearest: str, **options: object) -> None:
    """Refuse an option with any value but the one given."""
    for name, wanted in options.items():
        value = getattr(layer, name, wanted)
        if value != wanted:
            refuse(layer, f"{name}={value!r}", nearest)


def plain(layer: Any) -> None:
    """Refuse what would add to the loss, bend the weights or change their type."""
    for variable in layer.trainable_variables:
        if getattr(variable, "regularizer", None) is not None:
            refuse(layer, f"a regularizer of {variable.name}", "leave it out")
        if getattr(variable, "constraint", None) is not None:
            refuse(layer, f"a constraint on {variable.name}", "leave it out")
    if getattr(layer, "activity_regularizer", None) is not None:
        refuse(layer, "activity_regularizer", "leave it out")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        refuse(layer, "a quantised or LoRA layer", "give the model before that change")
    policy = getattr(layer, "dtype_policy", None)
    if policy is not None and policy.compute_dtype != "float32":
        refuse(layer, f"the type {policy.name}", "make the model with dtype='float32'")


def axis_of(layer: Any, axis: int, rank: int) -> int:
    """A non-negative axis; the batch's is refused."""
    found = axis % rank
    if found == 0:
        refuse(layer, "an axis that is the batch", "use an axis of the example")
    return found


def keras_function(layer: Any, function: Any) -> str:
    """Keras's name of an activation function; Unsupported if it is somebody's own."""
    name = getattr(function, "__name__", type(function).__name__)
    try:
        known = keras.activations.get(name)
    except ValueError:
        known = None
    if function is None or name == "linear":
        return "linear"
    if function not in (known, getattr(keras.ops, name, None), getattr(tf.nn, name, None)):
        refuse(layer, f"an activation of your own, {name!r}", "use one that Keras knows by name")
    return str(name)
