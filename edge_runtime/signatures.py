"""The signatures of a .tflite, read without running it, and those that a manifest promises.

They are read from the flatbuffer because asking the interpreter isn't safe for every file: an input
without any dimension makes LiteRT crash on aarch64, and it may be the file that is hostile.
Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flatbuffers import number_types
from flatbuffers.table import Table

from qflare.faults import PeerFault, Reason
from qflare.host.model import Manifest

# Fields of the tables, in the order of the schema.
_MODEL_SUBGRAPHS, _MODEL_SIGNATURES = 2, 7
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_DYNAMIC_SHAPE = 0, 1, 7
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _SIGNATURE_KEY, _SIGNATURE_SUBGRAPH = 0, 1, 2, 4
_MAP_NAME, _MAP_TENSOR = 0, 1
_TYPES: Final = {0: "float32", 2: "int32"}
_RANK_MAX: Final = 16

Tensor = tuple[tuple[int, ...], str]  # shape and dtype
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes into one of the graph's functions and what comes out, by name."""

    inputs: Tensors
    outputs: Tensors


def wanted_signatures(manifest: Manifest) -> dict[str, Signature]:
    """Exactly what a model with this manifest has to offer."""
    batch, rows = manifest.batch, manifest.rows
    raw: Tensor = ((batch, *manifest.input.shape), manifest.input.dtype)
    one, mask, count = _f32(1), _f32(batch), _f32(rows)
    examples = {"x": _f32(batch, *manifest.features) if manifest.features else raw}
    if manifest.task == "classification":
        examples["y"] = ((batch,), "int32")
    elif manifest.task != "autoencoder":
        examples["y"] = _f32(batch, *manifest.output)
    examples["m"] = mask
    train = examples | {"lr": one, "mu": one}
    if manifest.noise:
        train["r"] = _f32(batch, manifest.noise)
    if manifest.private:
        train |= {"clip": one, "z": _f32(manifest.size + manifest.personal_size)}
    weights = {f"w{i}": _f32(*p.shape) for i, p in enumerate(manifest.parameters)}
    weights |= {f"p{i}": _f32(*p.shape) for i, p in enumerate(manifest.personal)}
    found = {
        "train": Signature(train, {"loss": one}),
        "evaluate": Signature(examples, {"loss_sum": one, "examples": count, "correct": count}),
        "infer": Signature({"x": raw}, {"output": _f32(batch, *manifest.output)}),
        "get_weights": Signature({}, weights),
        "set_weights": Signature(weights, {"ok": one}),
        "reset": Signature({}, {"ok": one}),
    }
    if manifest.features:
        found["features"] = Signature({"x": raw}, {"f": _f32(batch, *manifest.features)})
    return found


def _f32(*shape: int) -> Tensor:
    return shape, "float32"


def verify_signatures(manifest: Manifest, tflite: bytes) -> None:
    """Raise PeerFault unless the model has exactly the inputs and outputs that it promises."""
    try:
        offered = read_signatures(tflite)
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: {error}") from None
    for name, wanted in wanted_signatures(manifest).items():
        if name not in offered:
            raise PeerFault(Reason.WRONG_SHAPE, f"the model has no signature {name!r}")
        for kind, found, want in (
            ("input", offered[name].inputs, wanted.inputs),
            ("output", offered[name].outputs, wanted.outputs),
        ):
            _verify(f"{kind} %r of {name!r}", found, want)


def _verify(what: str, found: Tensors, want: Tensors) -> None:
    for key in {**want, **found}:
        if key not in want:
            fault = "is not wanted"
        elif key not in found:
            fault = f"is missing, want {_text(want[key])}"
        elif not found[key][0]:
            fault = "is a scalar, which crashes TFLite on aarch64; give it the shape (1,)"
        elif found[key] != want[key]:
            fault = f"is {_text(found[key])}, want {_text(want[key])}"
        else:
            continue
        raise PeerFault(Reason.WRONG_SHAPE, f"{what % key[:40]} {fault}")


def _text(tensor: Tensor) -> str:
    shape, dtype = tensor
    return f"{dtype}{list(shape)}"


def read_signatures(tflite: bytes) -> dict[str, Signature]:
    """Every signature of a model; struct.error, IndexError, ValueError… if it is damaged."""
    model = Table(tflite, struct.unpack_from("<I", tflite)[0])
    subgraphs = _tables(model, _MODEL_SUBGRAPHS)
    found: dict[str, Signature] = {}
    for at in _tables(model, _MODEL_SIGNATURES):
        entry = Table(tflite, at)
        name, subgraph = _string(entry, _SIGNATURE_KEY), _number(entry, _SIGNATURE_SUBGRAPH)
        if name in found:
            raise ValueError(f"two signatures are called {name[:40]!r}")
        tensors = _tables(Table(tflite, subgraphs[subgraph]), _SUBGRAPH_TENSORS)
        found[name] = Signature(
            *(_map(entry, field, tensors) for field in (_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS))
        )
    return found


def _map(signature: Any, field: int, tensors: list[int]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for at in _tables(signature, field):
        entry = Table(signature.Bytes, at)
        name = _string(entry, _MAP_NAME)
        if name in found:
            raise ValueError(f"two tensors are called {name[:40]!r}")
        tensor = Table(signature.Bytes, tensors[_number(entry, _MAP_TENSOR)])
        shape, dynamic = _vector(tensor, _TENSOR_SHAPE), _vector(tensor, _TENSOR_DYNAMIC_SHAPE)
        code = _number(tensor, _TENSOR_TYPE, number_types.Int8Flags)
        # A shape that may change (-1) is shown as such, so that it fits nothing.
        found[name] = (dynamic or shape, _TYPES.get(code, f"type {code}"))
    return found


def _field(table: Any, number: int) -> int:
    """Where a field is, from the table's start; 0 if it is left out."""
    return int(table.Offset(4 + 2 * number))


def _number(table: Any, field: int, flags: Any = number_types.Uint32Flags) -> int:
    at = _field(table, field)
    return int(table.Get(flags, table.Pos + at)) if at else 0


def _string(table: Any, field: int) -> str:
    at = _field(table, field)
    return bytes(table.String(table.Pos + at)).decode() if at else ""


def _vector(table: Any, field: int) -> tuple[int, ...]:
    """A vector of int32 with at most `_RANK_MAX` values."""
    at = _field(table, field)
    if not at:
        return ()
    start, length = int(table.Vector(at)), int(table.VectorLen(at))
    if length > _RANK_MAX:
        raise ValueError(f"a tensor of {length} dimensions")
    return struct.unpack_from(f"<{length}i", table.Bytes, start)


def _tables(table: Any, field: int) -> list[int]:
    """The positions of a vector's tables."""
    at = _field(table, field)
    if not at:
        return []
    start, length = int(table.Vector(at)), int(table.VectorLen(at))
    if start + 4 * length > len(table.Bytes):
        raise ValueError("a list is longer than the file")
    return [int(table.Indirect(start + 4 * i)) for i in range(length)]
