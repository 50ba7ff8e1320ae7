"""What a trainable model says of itself: the manifest, JSON inside the .tflite.

Its author writes it; by the time a device reads it, the owner has vouched for the file's digest.
Everything in it is checked all the same.
"""

import math
from typing import Annotated, Final, Literal

from msgspec import Meta

from qflare.faults import PeerFault, Reason
from qflare.host.typed import Typed, Unfit, decode, encode

MANIFEST_CEILING: Final = 256 * 1024
FORMAT: Final = "qflare-model/2"

Task = Literal["classification", "multilabel", "regression", "autoencoder"]
LossName = Literal["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"]

_Text = Annotated[str, Meta(min_length=1, max_length=200)]
_Long = Annotated[str, Meta(max_length=4000)]
_Count = Annotated[int, Meta(ge=1, le=2**28)]
_Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]
_Scale = Annotated[float, Meta(ge=1e-9, le=1e9)]
_Shape = Annotated[list[_Count], Meta(min_length=1, max_length=8)]
_PerChannel = Annotated[list[_Finite], Meta(min_length=1, max_length=4096)]


class Parameter(Typed):
    """One trained tensor."""

    name: _Text
    shape: _Shape


class Input(Typed):
    """What one example is: `shape`, whose last axis are the channels, in physical units.

    The device feeds the model (value - mean) / scale. Whole numbers (int32), as an embedding takes
    them, are fed as they are.
    """

    shape: Annotated[list[_Count], Meta(min_length=1, max_length=4)]
    channels: Annotated[list[_Text], Meta(min_length=1, max_length=4096)]
    units: Annotated[list[_Text], Meta(min_length=1, max_length=4096)]
    mean: _PerChannel
    scale: Annotated[list[_Scale], Meta(min_length=1, max_length=4096)]
    dtype: Literal["float32", "int32"] = "float32"
    rate_hz: _Scale | None = None  # samples a second, if the input is a window of time

    def __post_init__(self) -> None:
        lengths = {len(v) for v in (self.channels, self.units, self.mean, self.scale)}
        if lengths != {self.shape[-1]}:
            raise ValueError(f"channels, units, mean, scale: want {self.shape[-1]} values each")


class Optimiser(Typed):
    """The optimiser inside the graph; its state never leaves the device and starts at zero."""

    name: Literal["sgd", "momentum", "adam"]
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Meta(gt=0, le=1)] = 1e-7


class Evaluation(Typed):
    """What `evaluate` must give on the golden batch."""

    loss_sum: _Finite
    n: _Scale
    correct: _Finite


class Golden(Typed):
    """A short training run with known losses; `qflare.zoo.formula` makes its inputs."""

    formula: Literal["sine/1"]
    learning_rate: Annotated[float, Meta(gt=0, le=100)]
    steps: Annotated[int, Meta(ge=1, le=100)]
    losses: Annotated[list[_Finite], Meta(min_length=1, max_length=100)]
    evaluate: Evaluation
    tolerance: Annotated[float, Meta(gt=0, le=0.1)]

    def __post_init__(self) -> None:
        if len(self.losses) != self.steps:
            raise ValueError("one loss per step is wanted")


class Manifest(Typed):
    """The whole of it."""

    format: Literal["qflare-model/2"]
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}\Z")]
    version: _Count
    task: Task
    loss: LossName
    input: Input
    output: _Shape  # of one example's output
    classes: Annotated[list[_Text], Meta(max_length=1024)]  # names; none but of a classification
    batch: Annotated[int, Meta(ge=1, le=4096)]
    optimiser: Optimiser
    parameters: Annotated[tuple[Parameter, ...], Meta(min_length=1, max_length=4096)]  # federated
    golden: Golden
    licence: _Text
    provenance: _Long
    made_by: _Long
    class_weights: Annotated[tuple[_Finite, ...], Meta(max_length=1024)] = ()  # built into the loss
    personal: Annotated[tuple[Parameter, ...], Meta(max_length=4096)] = ()  # never leave the device
    frozen: Annotated[int, Meta(ge=0, le=2**28)] = 0  # scalars that are constants of the graph
    noise: Annotated[int, Meta(ge=0, le=2**24)] = 0  # numbers per example that dropout draws
    private: bool = False  # `train` clips each example's gradient
    features: _Shape | None = None  # of what `features` gives for one example, if it is there
    batch_norm: Literal["none", "average", "local", "frozen"] = "none"

    def __post_init__(self) -> None:
        names = [p.name for p in (*self.parameters, *self.personal)]
        if len(set(names)) != len(names):
            raise ValueError("parameters: names are not unique")
        if self.task == "classification" and not (
            len(self.classes) >= 2 and self.output == [len(self.classes)]
        ):
            raise ValueError("a classification has 2…1,024 classes, and one output for each")
        if self.task in ("regression", "autoencoder") and self.classes:
            raise ValueError(f"a {self.task} has no classes")
        if self.task == "multilabel" and len(self.classes) != math.prod(self.output):
            raise ValueError("one class per output is wanted")
        if self.class_weights and len(self.class_weights) != len(self.classes):
            raise ValueError("one class weight per class is wanted")
        if self.task == "autoencoder" and self.output != self.input.shape:
            raise ValueError("an autoencoder's output has the shape of its input")

    @property
    def rows(self) -> int:
        """Rows of what `evaluate` counts: a class each, or one for everything."""
        return len(self.classes) if self.task == "classification" else 1

    @property
    def size(self) -> int:
        """The number of federated scalars."""
        return sum(math.prod(p.shape) for p in self.parameters)

    @property
    def personal_size(self) -> int:
        """The number of scalars that never leave the device."""
        return sum(math.prod(p.shape) for p in self.personal)

    def to_bytes(self) -> bytes:
        """The JSON that `parse_manifest` reads."""
        return encode(self)


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest; PeerFault names the field that is wrong."""
    if len(data) > MANIFEST_CEILING:
        raise PeerFault(
            Reason.TOO_LARGE, f"manifest has {len(data)} bytes, at most {MANIFEST_CEILING}"
        )
    try:
        return decode(Manifest, data)
    except Unfit as error:
        wrong = error.wrongs[0]
        reason = Reason.UNKNOWN_FIELD if wrong.kind == "unknown" else Reason.MALFORMED
        raise PeerFault(reason, f"manifest {'.'.join(wrong.at)}: {wrong.says}"[:300]) from None
