"""Turn the converter's .tflite into a model file: smaller, the same each time, and self-describing.

The converter names tensors after the code that made them, repeats equal constants, and stores the
zeros that an optimiser starts from. None of that is needed to train.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from qflare.authoring.packing import pack
from qflare.faults import LocalFault
from qflare.host.model.file import MANIFEST_ENTRY

_OP: Final = schema.BuiltinOperator
_VERSION_ENTRY: Final = b"min_runtime_version"
_FEW: Final = 64  # bytes of zeros that aren't worth an operator


def finish(tflite: bytes, manifest: bytes, federated: int, personal: int) -> bytes:
    """The model file: `tflite`, the manifest, and entries for the initial weights.

    `federated` and `personal` are how many tensors there are; the signature get_weights says which
    variable is which.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite))
    keys = [f"w{i}" for i in range(federated)] + [f"p{i}" for i in range(personal)]
    handles = _handles(model, keys)
    kept = set(handles.values())
    _fill_zeros(model, kept)
    initial = _initial_buffers(model, handles)
    _rename_handles(model, handles)
    entries = [(MANIFEST_ENTRY, _new_buffer(model, np.frombuffer(manifest, np.uint8)))]
    entries += [(f"qflare-{key}", initial[key]) for key in keys]
    others = [(e.name, e.buffer) for e in model.metadata or [] if e.name == _VERSION_ENTRY]
    model.metadata = [_metadata(name, buffer) for name, buffer in (*others, *entries)]
    _share_buffers(model)
    return pack(model)


def _handles(model: Any, keys: list[str]) -> dict[str, bytes]:
    """The shared name of the variable that each output of get_weights reads."""
    (signature,) = (s for s in model.signatureDefs if s.signatureKey == b"get_weights")
    graph = model.subgraphs[signature.subgraphIndex]
    producers = {int(o): op for op in graph.operators for o in _list(op.outputs)}
    found = {}
    for output in signature.outputs:
        tensor = output.tensorIndex
        while _code(model, producers[tensor]) != _OP.VAR_HANDLE:
            tensor = int(producers[tensor].inputs[0])
        found[output.name.decode()] = producers[tensor].builtinOptions.sharedName
    if sorted(found) != sorted(keys) or len(set(found.values())) != len(keys):
        raise LocalFault(
            "two weights of the model share a name; give its layers names of their own"
        )
    return found


def _assignments(model: Any) -> Iterator[tuple[Any, Any, bytes]]:
    """(subgraph, ASSIGN_VARIABLE, shared name) wherever a variable gets its initial value."""
    once = {
        op.builtinOptions.initSubgraphIndex
        for graph in model.subgraphs
        for op in graph.operators
        if _code(model, op) == _OP.CALL_ONCE
    }
    for index in sorted(once):
        yield from _assignments_in(model, model.subgraphs[index])


def _assignments_in(model: Any, graph: Any) -> Iterator[tuple[Any, Any, bytes]]:
    names = {
        int(op.outputs[0]): op.builtinOptions.sharedName
        for op in graph.operators
        if _code(model, op) == _OP.VAR_HANDLE
    }
    for op in graph.operators:
        if _code(model, op) == _OP.ASSIGN_VARIABLE:
            yield graph, op, names[int(op.inputs[0])]


def _initial_buffers(model: Any, handles: dict[str, bytes]) -> dict[str, int]:
    by_name = {
        name: graph.tensors[int(op.inputs[1])].buffer for graph, op, name in _assignments(model)
    }
    missing = [key for key, name in handles.items() if not _size(model, by_name.get(name, 0))]
    if missing:
        raise LocalFault(f"the converter dropped the initial values of {', '.join(missing)}")
    return {key: by_name[name] for key, name in handles.items()}


def _rename_handles(model: Any, handles: dict[str, bytes]) -> None:
    """Call parameters w0, p0, … and the rest v0, v1, … in the order of the initialisation."""
    new = {name: key.encode() for key, name in handles.items()}
    for _, _, name in _assignments(model):
        new.setdefault(name, f"v{len(new) - len(handles)}".encode())
    for graph in model.subgraphs:
        for op in graph.operators:
            if _code(model, op) == _OP.VAR_HANDLE:
                op.builtinOptions.sharedName = new[op.builtinOptions.sharedName]
                op.builtinOptions.container = b""


def _fill_zeros(model: Any, kept: set[bytes]) -> None:
    """Let FILL make the zeros that variables and loops start from, but for variables of `kept`."""
    for graph in model.subgraphs:
        users: dict[int, set[bytes]] = {}  # constant -> variables that start from it
        for _, op, name in _assignments_in(model, graph):
            users.setdefault(int(op.inputs[1]), set()).add(name)
        for op in graph.operators:
            if _code(model, op) == _OP.WHILE:
                users.update({index: set() for index in _list(op.inputs) if index not in users})
        fillers = [
            _filler(model, graph, index)
            for index, names in users.items()
            if not names & kept and _is_zero(model, graph.tensors[index])
        ]
        graph.operators = [*fillers, *graph.operators]


def _is_zero(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return (
        tensor.type == schema.TensorType.FLOAT32
        and data is not None
        and len(data) > _FEW
        and not np.any(data)
    )


def _filler(model: Any, graph: Any, index: int) -> Any:
    """An operator that makes the constant tensor at `index`, which stops being a constant."""
    tensor = graph.tensors[index]
    tensor.buffer = 0
    shape = np.asarray(tensor.shape, np.int32)
    dims = _constant(model, graph, schema.TensorType.INT32, (len(shape),), shape)
    value = _constant(model, graph, schema.TensorType.FLOAT32, (), np.zeros(1, np.float32))
    op = schema.OperatorT()
    op.opcodeIndex = _opcode(model, _OP.FILL)
    op.inputs, op.outputs = [dims, value], [index]
    op.builtinOptionsType = schema.BuiltinOptions.FillOptions
    op.builtinOptions = schema.FillOptionsT()
    return op


def _constant(model: Any, graph: Any, kind: int, shape: tuple[int, ...], data: Any) -> int:
    tensor = schema.TensorT()
    tensor.type, tensor.hasRank = kind, True
    tensor.shape = np.array(shape, np.int32)
    tensor.buffer = _new_buffer(model, data.view(np.uint8))
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _opcode(model: Any, code: int) -> int:
    for i, known in enumerate(model.operatorCodes):
        if known.builtinCode == code:
            return i
    new = schema.OperatorCodeT()
    new.builtinCode = new.deprecatedBuiltinCode = code
    new.version = 1
    model.operatorCodes.append(new)
    return len(model.operatorCodes) - 1


def _share_buffers(model: Any) -> None:
    """One buffer for equal bytes; none for what nobody refers to. Buffer 0 is the empty one."""
    order: dict[bytes, int] = {b"": 0}
    buffers = [schema.BufferT()]

    def moved(index: int) -> int:
        data = model.buffers[index].data
        key = b"" if data is None else np.asarray(data, np.uint8).tobytes()
        if key not in order:
            order[key] = len(buffers)
            buffers.append(model.buffers[index])
        return order[key]

    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = moved(tensor.buffer)
    for entry in model.metadata:
        entry.buffer = moved(entry.buffer)
    model.buffers = buffers


def _metadata(name: str | bytes, buffer: int) -> Any:
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, buffer
    return entry


def _new_buffer(model: Any, data: Any) -> int:
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _size(model: Any, index: int) -> int:
    data = model.buffers[index].data
    return 0 if data is None else len(data)


def _code(model: Any, op: Any) -> int:
    code = model.operatorCodes[op.opcodeIndex]
    return int(code.builtinCode)


def _list(values: Any) -> list[int]:
    return [] if values is None else [int(v) for v in values]
