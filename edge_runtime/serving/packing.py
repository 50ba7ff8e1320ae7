"""Write a small TFLite model: one subgraph of tensors and operators, and what belongs to it.

Fields are numbered as in the schema, tensorflow/compiler/mlir/lite/schema/schema.fbs. Equal things
are written once and referred to from everywhere.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import flatbuffers
from flatbuffers import number_types

_ALIGNMENT: Final = 16  # of a buffer's bytes, as the schema says
_IDENTIFIER: Final = b"TFL3"
_BY_WIDTH: Final = {
    1: number_types.Uint8Flags,
    2: number_types.Uint16Flags,
    4: number_types.Uint32Flags,
    8: number_types.Uint64Flags,
}


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How whole numbers stand for others."""

    minimum: bytes  # float32 little-endian, like `maximum` and `scale`
    maximum: bytes
    scale: bytes
    zero_point: bytes  # int64
    dimension: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value; `buffer` is the index of its bytes, 0 if it is computed."""

    shape: tuple[int, ...]
    kind: int  # TensorType
    buffer: int
    signature: tuple[int, ...] = ()  # the shape with -1 for what may change
    ranked: bool = True
    quantisation: Quantisation | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """One step; inputs and outputs are indices of tensors, -1 for none."""

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_kind: int = 0  # BuiltinOptions
    options: Mapping[int, bytes] | None = None  # numbers by field, little-endian
    options_list: tuple[int, ...] | None = None  # field 0 if it is a list of int32


@dataclass(frozen=True, slots=True)
class Small:
    """All of a model."""

    version: int
    description: str
    codes: Sequence[tuple[int, int]]  # builtin operator, version
    buffers: Sequence[bytes] = field(repr=False)  # the first is empty
    tensors: Sequence[Tensor]
    operators: Sequence[Operator]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    signatures: Sequence[str]  # names under which the subgraph can be called
    metadata: Mapping[str, int]  # name -> index of a buffer


def pack(model: Small) -> bytes:
    """The file; the same bytes each time."""
    return _Packer().model(model)


class _Packer:
    def __init__(self) -> None:
        self._build: Any = flatbuffers.Builder(1 << 16)
        self._written: dict[Hashable, int] = {}

    def model(self, it: Small) -> bytes:
        # Large things first: a flatbuffer is written from its end.
        references = {
            4: self._tables([self._buffer(data) for data in it.buffers]),
            1: self._tables([self._code(*code) for code in it.codes]),
            2: self._tables([self._subgraph(it)]),
            3: self._text(it.description),
            6: self._tables(
                [self._table({1: i}, {0: self._text(name)}) for name, i in it.metadata.items()]
            ),
            7: self._tables([self._signature(name, it) for name in it.signatures]),
        }
        self._build.Finish(self._table({0: it.version}, references), _IDENTIFIER)
        return bytes(self._build.Output())

    def _once(self, key: Hashable, write: Callable[[], int]) -> int:
        """Where something with this content is; it is written the first time."""
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]

    def _table(
        self,
        numbers: Mapping[int, int],
        references: Mapping[int, int],
        small: Mapping[int, int] | None = None,
    ) -> int:
        """A table of 32-bit numbers, references, and numbers of one byte; zeros are left out."""
        build, small = self._build, small or {}
        build.StartObject(max((*numbers, *references, *small), default=-1) + 1)
        for number, at in references.items():
            build.PrependUOffsetTRelativeSlot(number, at, 0)
        for number, value in numbers.items():
            build.PrependUint32Slot(number, value, 0)
        for number, value in small.items():
            build.PrependUint8Slot(number, value, 0)
        return int(build.EndObject())

    def _tables(self, places: list[int]) -> int:
        build = self._build
        build.StartVector(4, len(places), 4)
        for at in reversed(places):
            build.PrependUOffsetTRelative(at)
        return int(build.EndVector())

    def _text(self, text: str) -> int:
        return self._once(("text", text), lambda: int(self._build.CreateString(text)))

    def _bytes(self, data: bytes, width: int, alignment: int) -> int:
        """A vector whose values are `width` bytes each."""

        def write() -> int:
            build = self._build
            build.StartVector(width, len(data) // width, alignment)
            build.head = build.head - len(data)
            build.Bytes[build.head : build.head + len(data)] = data
            return int(build.EndVector())

        return self._once(("bytes", data, width, alignment), write)

    def _numbers(self, numbers: tuple[int, ...]) -> int:
        data = b"".join(n.to_bytes(4, "little", signed=True) for n in numbers)
        return self._bytes(data, 4, 4)

    def _buffer(self, data: bytes) -> int:
        return self._table({}, {0: self._bytes(data, 1, _ALIGNMENT)} if data else {})

    def _code(self, code: int, version: int) -> int:
        # Field 0 is the code as files had it that knew 127 operators at most.
        return self._table({2: version, 3: code}, {}, {0: min(code, 127)})

    def _subgraph(self, it: Small) -> int:
        return self._table(
            {},
            {
                0: self._tables([self._tensor(tensor) for tensor in it.tensors]),
                1: self._numbers(tuple(it.inputs.values())),
                2: self._numbers(tuple(it.outputs.values())),
                3: self._tables([self._operator(operator) for operator in it.operators]),
            },
        )

    def _tensor(self, it: Tensor) -> int:
        references = {0: self._numbers(it.shape)} if it.ranked else {}
        if it.signature:
            references[7] = self._numbers(it.signature)
        if it.quantisation is not None:
            references[4] = self._quantisation(it.quantisation)
        small = {1: it.kind, 8: int(it.ranked)}
        return self._once(("tensor", it), lambda: self._table({2: it.buffer}, references, small))

    def _quantisation(self, it: Quantisation) -> int:
        parts = ((0, it.minimum, 4), (1, it.maximum, 4), (2, it.scale, 4), (3, it.zero_point, 8))
        references = {n: self._bytes(data, width, width) for n, data, width in parts if data}
        return self._table({6: it.dimension}, references)

    def _operator(self, it: Operator) -> int:
        references = {1: self._numbers(it.inputs), 2: self._numbers(it.outputs)}
        if it.options is not None:
            references[4] = self._options(it.options, it.options_list)
        return self._table({0: it.code}, references, {3: it.options_kind})

    def _options(self, numbers: Mapping[int, bytes], listed: tuple[int, ...] | None) -> int:
        key = ("options", tuple(sorted(numbers.items())), listed)
        return self._once(key, lambda: self._new_options(numbers, listed))

    def _new_options(self, numbers: Mapping[int, bytes], listed: tuple[int, ...] | None) -> int:
        build = self._build
        at = None if listed is None else self._numbers(listed)
        build.StartObject(max(numbers, default=0) + 1)
        if at is not None:
            build.PrependUOffsetTRelativeSlot(0, at, 0)
        # The widest first, so that nothing stands between them.
        for number, data in sorted(numbers.items(), key=lambda item: -len(item[1])):
            build.Prepend(_BY_WIDTH[len(data)], int.from_bytes(data, "little"))
            build.Slot(number)
        return int(build.EndObject())

    def _signature(self, name: str, it: Small) -> int:
        sides = [
            self._tables([self._table({1: i}, {0: self._text(key)}) for key, i in side.items()])
            for side in (it.inputs, it.outputs)
        ]
        return self._table({4: 0}, {0: sides[0], 1: sides[1], 2: self._text(name)})
