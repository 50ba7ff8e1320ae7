"""What is in a TFLite file, whoever made it, read without running it. Pure.

Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs; a field's number is its place there.
"""

import math
from dataclasses import dataclass
from typing import Final

from edge_runtime.models.flatbuffer import Bytes, Span, Table
from edge_runtime.models.operators import CUSTOM, name_of
from qflare.faults import PeerFault, Reason

_RANK_MAX: Final = 16
_BITS: Final = {  # of a value of each type, in the order of the schema; 0: it has no fixed size
    "float32": 32,
    "float16": 16,
    "int32": 32,
    "uint8": 8,
    "int64": 64,
    "string": 0,
    "bool": 8,
    "int16": 16,
    "complex64": 64,
    "int8": 8,
    "float64": 64,
    "complex128": 128,
    "uint64": 64,
    "resource": 0,
    "variant": 0,
    "uint32": 32,
    "uint16": 16,
    "int4": 4,
    "bfloat16": 16,
    "int2": 2,
    "uint4": 4,
}
_TYPES: Final = tuple(_BITS)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value in a subgraph. A dimension of -1 is known only when the model runs."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    constant: int  # bytes in the file; 0 if the value is computed
    variable: bool  # keeps its value between runs, the old way (`Tensor.is_variable`)
    quantised: bool

    @property
    def size(self) -> int | None:
        """Bytes in memory; None if the file doesn't say."""
        bits = _BITS.get(self.dtype, 0)
        if not bits or any(side < 0 for side in self.shape):
            return None
        return -(-math.prod(self.shape) * bits // 8)


@dataclass(frozen=True, slots=True)
class Code:
    """An operator that the file uses, in one version."""

    name: str  # a builtin's name, or the custom operator's
    version: int
    custom: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a subgraph; inputs and outputs are indices of tensors, -1 for none."""

    code: Code
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: tuple[int, ...] = ()  # subgraphs that it runs
    variable: str | None = None  # the name of the variable that a VAR_HANDLE gives


@dataclass(frozen=True, slots=True)
class Subgraph:
    """A function: tensors, and the operators over them in order."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """A subgraph under a name, with names for what goes in and comes out."""

    key: str
    subgraph: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Graph:
    """The whole file."""

    size: int  # of the file, bytes
    version: int
    description: str
    codes: tuple[Code, ...]
    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[Signature, ...]
    metadata: dict[str, int]  # name -> index of a buffer
    buffers: tuple[Span, ...]  # where each one's bytes are; outside the file's tables if large


def read_graph(view: memoryview) -> Graph:
    """Parse a TFLite file; any bytes that are none raise PeerFault and nothing else."""
    if len(view) < 8 or bytes(view[4:8]) != b"TFL3":
        raise PeerFault(Reason.MALFORMED, "not a TFLite model: it doesn't begin as one does")
    model = Bytes(view).root()
    codes = tuple(_code(table) for table in model.tables(1))
    buffers = tuple(_buffer(table, len(view)) for table in model.tables(4))
    subgraphs = tuple(_subgraph(table, codes, buffers) for table in model.tables(2))
    for subgraph in subgraphs:
        _verify_calls(subgraph, len(subgraphs))
    return Graph(
        size=len(view),
        version=model.number(0),
        description=model.text(3),
        codes=codes,
        subgraphs=subgraphs,
        signatures=tuple(_signature(table, subgraphs) for table in model.tables(7)),
        metadata=_metadata(model, len(buffers)),
        buffers=buffers,
    )


def _code(table: Table) -> Code:
    # Codes above 127 don't fit the old field, and small ones may be in the old field alone.
    builtin = max(table.number(0, "i8"), table.number(3, "i32"))
    version = table.number(2, "i32", 1)
    if builtin == CUSTOM:
        return Code(table.text(1), version, custom=True)
    return Code(name_of(builtin), version, custom=False)


def _buffer(table: Table, length: int) -> Span:
    data = table.vector(0, 1)
    start, count = table.number(1, "u64"), table.number(2, "u64")
    if data.count or start <= 1:  # 0 and 1 mean: not outside
        return data
    if start + count > length:
        raise PeerFault(Reason.MALFORMED, "damaged TFLite model: a buffer is outside the file")
    return Span(start, count)


def _subgraph(table: Table, codes: tuple[Code, ...], buffers: tuple[Span, ...]) -> Subgraph:
    tensors = tuple(_tensor(entry, buffers) for entry in table.tables(0))
    count = len(tensors)
    return Subgraph(
        name=table.text(4),
        tensors=tensors,
        inputs=_within(table.ints(1), count, "input"),
        outputs=_within(table.ints(2), count, "output"),
        operators=tuple(_operator(entry, codes, count) for entry in table.tables(3)),
    )


def _tensor(table: Table, buffers: tuple[Span, ...]) -> Tensor:
    shape, dynamic = table.ints(0, _RANK_MAX), table.ints(7, _RANK_MAX)
    code, buffer = table.number(1, "u8"), table.number(2)
    if buffer and buffer >= len(buffers):  # 0 means none
        raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: no buffer {buffer}")
    quantisation = table.table(4)
    return Tensor(
        name=table.text(3),
        shape=dynamic or shape,
        dtype=_TYPES[code] if code < len(_TYPES) else f"type {code}",
        buffer=buffer,
        constant=buffers[buffer].count if buffer else 0,
        variable=bool(table.number(5, "u8")),
        quantised=quantisation is not None and quantisation.vector(2, 4).count > 0,
    )


def _operator(table: Table, codes: tuple[Code, ...], tensors: int) -> Operator:
    index = table.number(0)
    if index >= len(codes):
        raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: no operator code {index}")
    code = codes[index]
    inputs = _within(table.ints(1), tensors, "input")
    outputs = _within(table.ints(2), tensors, "output")
    options = None if code.custom else table.table(4)
    if options is None:
        return Operator(code, inputs, outputs)
    match code.name:
        case "CALL_ONCE":
            calls: tuple[int, ...] = (options.number(0, "i32"),)
        case "WHILE" | "IF":
            calls = (options.number(0, "i32"), options.number(1, "i32"))
        case "VAR_HANDLE":
            return Operator(code, inputs, outputs, variable=options.text(1))
        case _:
            calls = ()
    return Operator(code, inputs, outputs, calls)


def _within(indices: tuple[int, ...], count: int, what: str) -> tuple[int, ...]:
    if any(not -1 <= index < count for index in indices):
        raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: an {what} is no tensor")
    return indices


def _verify_calls(subgraph: Subgraph, count: int) -> None:
    for operator in subgraph.operators:
        if any(not 0 <= called < count for called in operator.calls):
            raise PeerFault(
                Reason.MALFORMED,
                f"damaged TFLite model: {operator.code.name} of no subgraph",
            )


def _signature(table: Table, subgraphs: tuple[Subgraph, ...]) -> Signature:
    index = table.number(4)
    if index >= len(subgraphs):
        raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: no subgraph {index}")
    tensors = subgraphs[index].tensors
    sides: list[dict[str, Tensor]] = []
    for field in (0, 1):
        side: dict[str, Tensor] = {}
        for entry in table.tables(field):
            at = entry.number(1)
            if at >= len(tensors):
                raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: no tensor {at}")
            side[entry.text(0)] = tensors[at]
        sides.append(side)
    return Signature(table.text(2), index, *sides)


def _metadata(model: Table, buffers: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in model.tables(6):
        index = entry.number(1)
        if index >= buffers:
            raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: no buffer {index}")
        found[entry.text(0)] = index
    return found
