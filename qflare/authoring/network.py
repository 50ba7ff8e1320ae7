"""What a prepared model is: its trained tensors, and its forward pass in trainable operators.

`prepare` makes a `Network` from a Keras model; `module` gives it the signatures that a device
calls. Neither knows the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Tensor = Any  # TensorFlow ships no usable types


@dataclass(frozen=True, eq=False)
class Trained:
    """One trained tensor."""

    name: str  # "layer/weight"
    variable: Any  # a tf.Variable, which holds the initial value
    statistic: bool  # a moving statistic of batch normalisation: no gradient, assigned in training


@dataclass(frozen=True, eq=False)
class Step:
    """What a forward pass may need besides its input."""

    training: bool
    mask: Tensor | None  # float32 (batch,): the weight of each example, 0 for padding
    noise: Tensor | None  # float32 (batch, Network.noise), uniform in [0, 1)


Forward = Callable[[Tensor, Step], tuple[Tensor, list[tuple[Trained, Tensor]]]]


@dataclass(frozen=True, eq=False)
class Network:
    """A Keras model whose forward pass trains with builtin operators."""

    federated: tuple[Trained, ...]
    personal: tuple[Trained, ...]
    frozen: int  # scalars that became constants
    noise: int  # random numbers for each example that dropout takes
    input_shape: tuple[int, ...]  # of one example
    output_shape: tuple[int, ...]
    input_dtype: Literal["float32", "int32"]
    batch: int
    features_shape: tuple[int, ...] | None  # of what `features` gives for one example
    batch_norm: Literal["none", "average", "local", "frozen"]
    # (batch, *input), or (batch, *features) where there are features -> the raw output (of a
    # classifier or multilabel model the logits), and the new values of moving statistics. The batch
    # is that of the tensor: 1 for the gradient of a single example.
    forward: Forward
    features: Callable[[Tensor], Tensor] | None  # the frozen prefix: (batch, *input) -> features
