"""Write a TFLite model as bytes that depend on nothing but its content, and as few as can be.

TensorFlow's generated `Pack` writes everything anew wherever it is referred to. A flatbuffer may
as well refer twice to one place: an unrolled recurrent layer has thousands of tensors of a dozen
kinds, and its file shrinks to half.
"""

from collections.abc import Callable, Hashable
from typing import Any, Final

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

_ALIGNMENT: Final = 16  # of a buffer's bytes, as the schema wants and the generated code forgets
_IDENTIFIER: Final = b"TFL3"


def pack(model: Any) -> bytes:
    """The bytes of a `ModelT`. Names of tensors and subgraphs are left out."""
    return _Packer().model(model)


class _Packer:
    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1 << 20)
        self._written: dict[Hashable, int] = {}

    def model(self, model: Any) -> bytes:
        build = self._builder
        # Large things first: a flatbuffer is written from its end, and offsets have 32 bits.
        buffers = self._tables([self._buffer(buffer) for buffer in model.buffers])
        codes = self._tables([code.Pack(build) for code in model.operatorCodes])
        subgraphs = self._tables([self._subgraph(graph) for graph in model.subgraphs])
        metadata = self._tables([entry.Pack(build) for entry in model.metadata])
        signatures = self._tables([entry.Pack(build) for entry in model.signatureDefs])
        description = build.CreateString("qflare-model")
        schema.ModelStart(build)
        schema.ModelAddVersion(build, model.version)
        schema.ModelAddOperatorCodes(build, codes)
        schema.ModelAddSubgraphs(build, subgraphs)
        schema.ModelAddDescription(build, description)
        schema.ModelAddBuffers(build, buffers)
        schema.ModelAddMetadata(build, metadata)
        schema.ModelAddSignatureDefs(build, signatures)
        build.Finish(schema.ModelEnd(build), _IDENTIFIER)
        return bytes(build.Output())

    def _once(self, key: Hashable, write: Callable[[], int]) -> int:
        """Where something with this content is; it is written the first time."""
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]

    def _tables(self, offsets: list[int]) -> int:
        build = self._builder
        build.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            build.PrependUOffsetTRelative(offset)
        return int(build.EndVector())

    def _numbers(self, numbers: Any) -> int:
        """A vector of int32."""
        found = np.asarray(numbers, np.int32)
        key = ("numbers", found.tobytes())
        return self._once(key, lambda: int(self._builder.CreateNumpyVector(found)))

    def _buffer(self, buffer: Any) -> int:
        build, data = self._builder, buffer.data
        vector = None
        if data is not None and len(data):
            found = np.ascontiguousarray(data, np.uint8)
            build.StartVector(1, len(found), _ALIGNMENT)
            build.head = build.head - len(found)
            build.Bytes[build.head : build.head + len(found)] = found.tobytes()
            vector = build.EndVector()
        schema.BufferStart(build)
        if vector is not None:
            schema.BufferAddData(build, vector)
        return int(schema.BufferEnd(build))

    def _subgraph(self, graph: Any) -> int:
        build = self._builder
        tensors = self._tables([self._tensor(tensor) for tensor in graph.tensors])
        operators = self._tables([self._operator(operator) for operator in graph.operators])
        inputs, outputs = self._numbers(graph.inputs), self._numbers(graph.outputs)
        schema.SubGraphStart(build)
        schema.SubGraphAddTensors(build, tensors)
        schema.SubGraphAddInputs(build, inputs)
        schema.SubGraphAddOutputs(build, outputs)
        schema.SubGraphAddOperators(build, operators)
        return int(schema.SubGraphEnd(build))

    def _tensor(self, tensor: Any) -> int:
        tensor.name = None
        quantised = tensor.quantization is not None and tensor.quantization.scale is not None
        if quantised or tensor.sparsity is not None or tensor.variantTensors is not None:
            return int(tensor.Pack(self._builder))
        shape = None if tensor.shape is None else tuple(map(int, tensor.shape))
        key = ("tensor", shape, tensor.type, tensor.buffer, tensor.isVariable, tensor.hasRank)
        return self._once(key, lambda: self._plain_tensor(tensor, shape))

    def _plain_tensor(self, tensor: Any, shape: tuple[int, ...] | None) -> int:
        build = self._builder
        numbers = None if shape is None else self._numbers(shape)
        schema.TensorStart(build)
        if numbers is not None:
            schema.TensorAddShape(build, numbers)
        schema.TensorAddType(build, tensor.type)
        schema.TensorAddBuffer(build, tensor.buffer)
        schema.TensorAddIsVariable(build, tensor.isVariable)
        schema.TensorAddHasRank(build, tensor.hasRank)
        return int(schema.TensorEnd(build))

    def _operator(self, operator: Any) -> int:
        build = self._builder
        inputs = self._numbers([] if operator.inputs is None else operator.inputs)
        outputs = self._numbers([] if operator.outputs is None else operator.outputs)
        options = self._options(operator.builtinOptions)
        options2 = self._options(operator.builtinOptions2)
        key = ("operator", operator.opcodeIndex, inputs, outputs, options, options2)

        def write() -> int:
            schema.OperatorStart(build)
            schema.OperatorAddOpcodeIndex(build, operator.opcodeIndex)
            schema.OperatorAddInputs(build, inputs)
            schema.OperatorAddOutputs(build, outputs)
            if options is not None:
                schema.OperatorAddBuiltinOptionsType(build, operator.builtinOptionsType)
                schema.OperatorAddBuiltinOptions(build, options)
            if options2 is not None:
                schema.OperatorAddBuiltinOptions2Type(build, operator.builtinOptions2Type)
                schema.OperatorAddBuiltinOptions2(build, options2)
            return int(schema.OperatorEnd(build))

        return self._once(key, write)

    def _options(self, options: Any) -> int | None:
        if options is None:
            return None
        content = tuple(
            (name, value.tobytes() if isinstance(value, np.ndarray) else _hashable(value))
            for name, value in sorted(vars(options).items())
        )
        key = ("options", type(options).__name__, content)
        return self._once(key, lambda: int(options.Pack(self._builder)))


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value
