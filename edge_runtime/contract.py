"""What a trainable model promises: its manifest, checked against the .tflite itself.

The manifest is JSON that a model's author writes; by the time it gets here, the round's offer has
vouched for its digest. Everything in it is checked all the same.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.interpreter import open_interpreter
from qflare.faults import PeerFault, Reason
from qflare.names import Digest
from qflare.tensors import ModelSpec

MANIFEST_CEILING: Final = 256 * 1024
TFLITE_CEILING: Final = 256 * 1024 * 1024
_Text = Annotated[str, Field(min_length=1, max_length=200)]
_Count = Annotated[int, Field(ge=1, le=2**28)]
_Finite = Annotated[float, Field(ge=-1e9, le=1e9)]
_Scale = Annotated[float, Field(ge=1e-9, le=1e9)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class _File(_Strict):
    file: _Text
    bytes: _Count
    sha256: _Text


class _Parameter(_Strict):
    name: _Text
    shape: Annotated[list[_Count], Field(min_length=1, max_length=8)]


class _Input(_Strict):
    shape: Annotated[list[_Count], Field(min_length=1, max_length=4)]
    dtype: Literal["float32"]
    rate_hz: _Scale
    channels: Annotated[list[_Text], Field(min_length=1, max_length=4096)]
    units: Annotated[list[_Text], Field(min_length=1, max_length=4096)]
    mean: Annotated[list[_Finite], Field(min_length=1, max_length=4096)]
    scale: Annotated[list[_Scale], Field(min_length=1, max_length=4096)]


class _Optimiser(_Strict):
    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)]


class Evaluation(_Strict):
    """What `evaluate` must give on the golden batch."""

    loss_sum: _Finite
    n: _Scale
    correct: _Finite


class Golden(_Strict):
    """A short training run with known losses; see `qflare.zoo.formula` for its inputs."""

    formula: Literal["sine/1"]
    learning_rate: Annotated[float, Field(gt=0, le=100)]
    steps: Annotated[int, Field(ge=1, le=100)]
    losses: Annotated[list[_Finite], Field(min_length=1, max_length=100)]
    evaluate: Evaluation
    tolerance: Annotated[float, Field(gt=0, le=0.1)]


class _Manifest(_Strict):
    format: Literal["qflare-model/1"]
    name: _Text
    version: _Count
    tflite: _File
    weights: _File
    parameters: Annotated[list[_Parameter], Field(min_length=1, max_length=4096)]
    input: _Input
    classes: Annotated[list[_Text], Field(min_length=2, max_length=4096)]
    batch: Annotated[int, Field(ge=1, le=4096)]
    optimiser: _Optimiser
    golden: Golden
    licence: _Text
    provenance: _Text
    made_by: _Text


@dataclass(frozen=True, slots=True)
class ModelContract:
    """A model that this device can train; made only by `parse_contract`."""

    name: str
    version: int
    digest: Digest  # of the .tflite
    initial_weights: Digest  # of the float32 little-endian flat weights
    spec: ModelSpec
    input_shape: tuple[int, ...]
    rate_hz: float
    channels: tuple[str, ...]  # the last axis of the input
    units: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    classes: tuple[str, ...]
    batch: int
    golden: Golden

    def normalise(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring samples in physical units, (n, *input_shape), to the scale that the model wants."""
        mean, scale = np.asarray(self.mean, np.float32), np.asarray(self.scale, np.float32)
        with np.errstate(over="ignore"):  # the caller checks that what comes out is finite
            scaled: NDArray[np.float32] = np.divide(x - mean, scale, dtype=np.float32)
        return scaled


def parse_contract(manifest: bytes, tflite: bytes) -> ModelContract:
    """Read the manifest and check the model against it; PeerFault says what is wrong."""
    for name, data, ceiling in (
        ("manifest", manifest, MANIFEST_CEILING),
        ("model", tflite, TFLITE_CEILING),
    ):
        if len(data) > ceiling:
            raise PeerFault(Reason.TOO_LARGE, f"{name} has {len(data)} bytes, at most {ceiling}")
    try:
        says = _Manifest.model_validate_json(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = Reason.UNKNOWN_FIELD if first["type"] == "extra_forbidden" else Reason.MALFORMED
        raise PeerFault(reason, f"manifest {where}: {first['msg']}"[:300]) from None
    contract = _contract(says)
    if len(tflite) != says.tflite.bytes or Digest.of(tflite) != contract.digest:
        raise PeerFault(Reason.WRONG_DIGEST, f"the model is not the manifest's {says.tflite.file}")
    try:
        _verify_signatures(contract, tflite)
    except (RuntimeError, ValueError) as error:
        raise PeerFault(Reason.MALFORMED, f"TFLite cannot run the model: {error}") from None
    return contract


def _contract(says: _Manifest) -> ModelContract:
    per_channel = (says.input.channels, says.input.units, says.input.mean, says.input.scale)
    if {len(values) for values in per_channel} != {says.input.shape[-1]}:
        raise PeerFault(Reason.WRONG_SHAPE, "manifest input: one value per channel is wanted")
    if len(says.golden.losses) != says.golden.steps:
        raise PeerFault(Reason.WRONG_SHAPE, "manifest golden: one loss per step is wanted")
    return ModelContract(
        name=says.name,
        version=says.version,
        digest=Digest.parse(says.tflite.sha256),
        initial_weights=Digest.parse(says.weights.sha256),
        spec=ModelSpec(tuple((p.name, tuple(p.shape)) for p in says.parameters)),
        input_shape=tuple(says.input.shape),
        rate_hz=says.input.rate_hz,
        channels=tuple(says.input.channels),
        units=tuple(says.input.units),
        mean=tuple(says.input.mean),
        scale=tuple(says.input.scale),
        classes=tuple(says.classes),
        batch=says.batch,
        golden=says.golden,
    )


def _verify_signatures(contract: ModelContract, tflite: bytes) -> None:
    """Raise PeerFault unless the model has exactly the inputs and outputs of the contract."""
    batch = contract.batch
    f32, i32 = np.float32, np.int32
    x: tuple[tuple[int, ...], Any] = ((batch, *contract.input_shape), f32)
    labelled = {"x": x, "y": ((batch,), i32), "m": ((batch,), f32)}
    one: tuple[tuple[int, ...], Any] = ((1,), f32)
    tensors = {f"w{i}": (shape, f32) for i, (_, shape) in enumerate(contract.spec.tensors)}
    wanted = {
        "train": (labelled | {"lr": one}, {"loss": one}),
        "evaluate": (labelled, {"loss_sum": one, "n": one, "correct": one}),
        "infer": ({"x": x}, {"probabilities": ((batch, len(contract.classes)), f32)}),
        "get_weights": ({}, tensors),
        "set_weights": (tensors, {"ok": one}),
        "reset": ({}, {"ok": one}),
    }
    interpreter = open_interpreter(tflite)
    offered = interpreter.get_signature_list()
    for name, (inputs, outputs) in wanted.items():
        if name not in offered:
            raise PeerFault(Reason.WRONG_SHAPE, f"the model has no signature {name!r}")
        runner = interpreter.get_signature_runner(name)
        for kind, details, want in (
            ("inputs", runner.get_input_details(), inputs),
            ("outputs", runner.get_output_details(), outputs),
        ):
            found = {key: (tuple(map(int, d["shape"])), d["dtype"]) for key, d in details.items()}
            if found != want:
                raise PeerFault(
                    Reason.WRONG_SHAPE, f"{kind} of {name!r}: {found}, want {want}"[:600]
                )
