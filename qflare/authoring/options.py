"""What a developer chooses when a model is built, checked before TensorFlow is loaded."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.files import read_bounded
from qflare.host.model.manifest import LossName, Task
from qflare.host.typed import Typed, Unfit, parse

TASKS: Final[tuple[str, ...]] = get_args(Task)
LOSSES: Final[dict[str, tuple[LossName, ...]]] = {  # of a task; the first is the default
    "classification": ("cross_entropy",),
    "multilabel": ("binary_cross_entropy",),
    "regression": ("mse", "mae", "huber"),
    "autoencoder": ("mse", "mae", "huber"),
}
OPTIMISERS: Final = ("sgd", "momentum", "adam")
BATCH_NORMS: Final = ("average", "local", "frozen")
SCHEMA_CEILING: Final = 1024 * 1024
BATCH_MAX: Final = 4096


class InputSchema(Typed):
    """What the last axis of an example is, in physical units; what is left out has a default.

    The file schema.toml says the same, in a table `input` beside the names of the classes.
    """

    channels: list[str] | None = None
    units: list[str] | None = None
    mean: list[float] | None = None
    scale: list[Annotated[float, Meta(gt=0)]] | None = None
    rate_hz: float | None = None
    shape: list[int] | None = None  # of an example; what the model must take


class _Schema(Typed):
    classes: tuple[str, ...] = ()
    input: InputSchema = InputSchema()


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a Keras model becomes a model file. LocalFault, when made, if two don't go together."""

    task: Task
    loss: LossName | None = None  # the task's first
    optimiser: Literal["sgd", "momentum", "adam"] = "momentum"
    momentum: float = 0.9
    batch: int = 16
    name: str = "model"
    version: int = 1
    classes: tuple[str, ...] = ()  # class0, class1, … if left out
    class_weights: tuple[float, ...] = ()
    personal: tuple[str, ...] = ()  # layers
    batch_norm: Literal["average", "local", "frozen"] = "average"
    cache_features: bool = False
    private: bool = False
    input: InputSchema = field(default_factory=InputSchema)
    licence: str = "not stated"
    provenance: str = ""
    made_by: str = "qflare.authoring.build.build_model"

    def __post_init__(self) -> None:
        _one_of("task", self.task, TASKS)
        _one_of(f"loss of a {self.task}", self.chosen_loss, LOSSES[self.task])
        _one_of("optimiser", self.optimiser, OPTIMISERS)
        _one_of("batch norm", self.batch_norm, BATCH_NORMS)
        if not 1 <= self.batch <= BATCH_MAX:
            raise LocalFault(f"batch {self.batch}: choose 1…{BATCH_MAX}")
        if not 0 <= self.momentum < 1:
            raise LocalFault(f"momentum {self.momentum}: choose 0 or more, and less than 1")
        if self.classes and self.task in ("regression", "autoencoder"):
            raise LocalFault(f"a {self.task} has no classes; leave --classes out")
        if self.class_weights and self.task != "classification":
            raise LocalFault("class weights are for a classification; leave them out")
        if not all(0 <= weight < 1e9 for weight in self.class_weights):
            raise LocalFault("class weights are numbers that aren't negative")
        if self.cache_features and self.task == "autoencoder":
            raise LocalFault(
                "an autoencoder's target is its input, which cached features replace; "
                "leave --cache-features out"
            )

    @property
    def chosen_loss(self) -> LossName:
        return self.loss or LOSSES[self.task][0]


def read_schema(path: Path) -> tuple[InputSchema, tuple[str, ...]]:
    """The input and the classes that `path` states; LocalFault says what is wrong with it."""
    try:
        found = tomllib.loads(read_bounded(path, SCHEMA_CEILING).decode())
        schema = parse(_Schema, found)
    except OSError as error:
        raise LocalFault(
            f"{path}: {error.strerror}; `qflare data import` writes a schema.toml"
        ) from None
    except Unfit as error:
        raise LocalFault(f"{path}: {error}") from None
    except ValueError as error:
        raise LocalFault(f"{path} is not TOML: {error}") from None
    return schema.input, schema.classes


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LocalFault(f"{what} {value!r}: choose one of {', '.join(known)}")
