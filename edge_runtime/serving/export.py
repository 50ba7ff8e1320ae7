"""From a trainable model and its weights to a file that an application can run.

The file has one function, `infer`, and nothing of training. The weights are constants in it, where
the trainable model reads variables; so any TFLite interpreter runs it without setting anything,
and may prepare the constants once. What the manifest says stays inside, and so do the weights by
their names: `qflare.host.model.read_model` reads both. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edge_runtime.models.flatbuffer import Bytes, Table
from edge_runtime.models.operators import CUSTOM, name_of
from edge_runtime.serving.packing import Operator, Quantisation, Small, Tensor, pack
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.model import read_model
from qflare.host.model.file import MANIFEST_ENTRY

SIGNATURES: Final = ("infer", "serving_default")  # the second is what TensorFlow calls a sole one
INFER: Final = "infer"
_DROPPED: Final = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE")
_CALLING: Final = ("IF", "WHILE", "CALL", "ASSIGN_VARIABLE")
_RANK_MAX: Final = 16
# Kinds of options (BuiltinOptions) that hold more than numbers.
_LISTS: Final = {17, 30}  # of RESHAPE and SQUEEZE: field 0 is a list of int32
_FULLY_CONNECTED: Final = 8  # field 5 is a list that none of ours has
_OTHERS: Final = {3, 111, 115}  # of CONCAT_EMBEDDINGS, VAR_HANDLE, BUCKETIZE
_KINDS: Final = 125  # newer ones aren't known here


def application_file(tflite: bytes, weights: bytes, personal: bytes = b"") -> bytes:
    """The application's file of a trainable model with these weights, float32 LE, flat.

    `personal` are the personal parameters; without any, those that the model starts from are
    taken. Raises PeerFault if the model is damaged or does what such a file can't hold, LocalFault
    for weights of another model.
    """
    model = read_model(tflite)
    manifest = model.manifest
    personal = personal or model.personal
    for what, data, size in (
        ("weights", weights, manifest.size),
        ("personal parameters", personal, manifest.personal_size),
    ):
        if len(data) != 4 * size:
            raise LocalFault(f"{manifest.name}: {len(data)} bytes of {what}, want {4 * size}")
    values: dict[str, bytes] = {}
    for letter, flat, parameters in (
        ("w", weights, manifest.parameters),
        ("p", personal, manifest.personal),
    ):
        at = 0
        for i, parameter in enumerate(parameters):
            size = 4
            for side in parameter.shape:
                size *= side
            values[f"{letter}{i}"] = flat[at : at + size]
            at += size
    return pack(_Export(tflite, values, manifest.to_bytes()).small())


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator of the file, as it is there."""

    table: Table
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Export:
    """What of the file goes into the new one."""

    def __init__(self, tflite: bytes, values: dict[str, bytes], manifest: bytes) -> None:
        self._view = memoryview(tflite)
        self._model = Bytes(self._view).root()
        self._codes = self._model.tables(1)
        self._graphs = self._model.tables(2)
        self._stored = self._model.tables(4)
        self._values, self._manifest = values, manifest
        self._buffers: dict[bytes, int] = {b"": 0}
        self._new_codes: dict[tuple[int, int], int] = {}

    def small(self) -> Small:
        graph, inputs, outputs = self._signature(INFER)
        tensors = graph.tables(0)
        constants = self._constants(graph)
        steps = [s for s in self._steps(graph) if s.name not in _DROPPED]
        used = sorted(
            {*inputs.values(), *outputs.values()}
            | {i for s in steps for i in (*s.inputs, *s.outputs) if i != -1}
        )
        if used and not 0 <= used[0] <= used[-1] < len(tensors):
            raise _unfit("an operator names a tensor that isn't there")
        new = {old: i for i, old in enumerate(used)} | {-1: -1}
        metadata = {MANIFEST_ENTRY: self._buffer(self._manifest)}
        metadata |= {f"qflare-{key}": self._buffer(data) for key, data in self._values.items()}
        made = [self._tensor(tensors[old], constants.get(old)) for old in used]
        operators = [self._operator(step, new) for step in steps]
        return Small(
            version=self._model.number(0),
            description="qflare-application",
            codes=list(self._new_codes),
            buffers=list(self._buffers),
            tensors=made,
            operators=operators,
            inputs={name: new[i] for name, i in inputs.items()},
            outputs={name: new[i] for name, i in outputs.items()},
            signatures=SIGNATURES,
            metadata=metadata,
        )

    def _signature(self, name: str) -> tuple[Table, dict[str, int], dict[str, int]]:
        """The subgraph behind a signature, and its tensors by name."""
        for entry in self._model.tables(7):
            if entry.text(2) == name:
                sides = [{m.text(0): m.number(1) for m in entry.tables(f)} for f in (0, 1)]
                if not (index := entry.number(4)) < len(self._graphs):
                    break
                return self._graphs[index], sides[0], sides[1]
        raise _unfit(f"it has no signature {name!r}")

    def _steps(self, graph: Table) -> Iterator[_Step]:
        for table in graph.tables(3):
            name = name_of(self._code(table)[0])
            yield _Step(table, name, table.ints(1), table.ints(2))

    def _code(self, operator: Table) -> tuple[int, int]:
        """Builtin operator and version."""
        index = operator.number(0)
        if index >= len(self._codes):
            raise _unfit("an operator has no code")
        table = self._codes[index]
        return max(table.number(0, "i8"), table.number(3, "i32")), table.number(2, "i32", 1)

    def _constants(self, graph: Table) -> dict[int, bytes]:
        """The value of each tensor that READ_VARIABLE gives in this subgraph."""
        keys = self._variables()
        handles = self._handles(graph)
        found = {}
        for step in self._steps(graph):
            if step.name == "READ_VARIABLE" and step.inputs and step.outputs:
                variable = handles.get(step.inputs[0])
                if variable not in keys:
                    raise _unfit("it reads a variable that is no parameter")
                found[step.outputs[0]] = self._values[keys[variable]]
        return found

    def _variables(self) -> dict[str, str]:
        """w0, p0, … by the name of the variable that `get_weights` reads for it."""
        graph, _, outputs = self._signature("get_weights")
        producers = {out: step for step in self._steps(graph) for out in step.outputs}
        handles = self._handles(graph)
        found: dict[str, str] = {}
        for key, tensor in outputs.items():
            seen: set[int] = set()
            while tensor not in handles:
                step = producers.get(tensor)
                if step is None or not step.inputs or tensor in seen:
                    raise _unfit(f"get_weights doesn't say which variable {key[:40]} is")
                seen.add(tensor)
                tensor = step.inputs[0]
            found[handles[tensor]] = key
        if sorted(found.values()) != sorted(self._values):
            raise _unfit("get_weights gives other parameters than the manifest names")
        return found

    def _handles(self, graph: Table) -> dict[int, str]:
        found = {}
        for step in self._steps(graph):
            if step.name == "VAR_HANDLE" and step.outputs:
                options = step.table.table(4)
                found[step.outputs[0]] = options.text(1) if options is not None else ""
        return found

    def _buffer(self, data: bytes) -> int:
        return self._buffers.setdefault(data, len(self._buffers))

    def _tensor(self, table: Table, constant: bytes | None) -> Tensor:
        if table.has(6) or table.has(9) or table.number(5, "u8"):
            raise _unfit("it has a sparse tensor, or one that keeps its value")
        data = constant if constant is not None else self._data(table.number(2))
        return Tensor(
            shape=table.ints(0, _RANK_MAX),
            kind=table.number(1, "u8"),
            buffer=self._buffer(data),
            signature=table.ints(7, _RANK_MAX),
            ranked=table.has(0),
            quantisation=self._quantisation(table.table(4)),
        )

    def _data(self, index: int) -> bytes:
        if not index:
            return b""
        if index >= len(self._stored):
            raise _unfit("a tensor has no buffer")
        table = self._stored[index]
        if table.number(1, "u64") > 1:
            raise _unfit("a buffer is outside its tables")
        return self._bytes(table, 0, 1)

    def _bytes(self, table: Table, field: int, width: int) -> bytes:
        span = table.vector(field, width)
        return bytes(self._view[span.start : span.start + width * span.count])

    def _quantisation(self, table: Table | None) -> Quantisation | None:
        if table is None or not table.vector(2, 4).count:
            return None
        if table.has(5):
            raise _unfit("its tensors are quantised in a way that isn't known here")
        low, high, scale = (self._bytes(table, field, 4) for field in (0, 1, 2))
        zero = self._bytes(table, 3, 8)
        return Quantisation(low, high, scale, zero, table.number(6, "i32"))

    def _operator(self, step: _Step, new: dict[int, int]) -> Operator:
        code, table, kind = self._code(step.table), step.table, step.table.number(3, "u8")
        odd = code[0] == CUSTOM or step.name in _CALLING or kind > _KINDS or kind in _OTHERS
        if odd or any(table.has(field) for field in (5, 7, 8, 9, 11, 12)):
            raise _unfit(f"the operator {step.name} can't be taken out of it")
        options, listed = table.table(4), None
        numbers = options.inline() if options is not None else None
        if numbers is not None and kind in _LISTS and options is not None:
            listed = options.ints(0, _RANK_MAX) if numbers.pop(0, b"") else None
        if numbers is not None and kind == _FULLY_CONNECTED and numbers.pop(5, b""):
            raise _unfit("a FULLY_CONNECTED has settings that aren't known here")
        return Operator(
            self._new_codes.setdefault(code, len(self._new_codes)),
            tuple(new[i] for i in step.inputs),
            tuple(new[i] for i in step.outputs),
            kind,
            numbers,
            listed,
        )


def _unfit(what: str) -> PeerFault:
    return PeerFault(Reason.MALFORMED, f"no application file can be made of the model: {what}")
