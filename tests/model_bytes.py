"""The smallest flatbuffers that a TFLite reader takes: metadata and buffers, no graph."""

from collections.abc import Mapping

import flatbuffers


def model_bytes(metadata: Mapping[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    """A `Model` table with these metadata entries and nothing else."""
    entries = list(metadata.items()) if isinstance(metadata, Mapping) else metadata
    builder = flatbuffers.Builder(256)
    buffers = []
    for _, content in entries:
        builder.StartVector(1, len(content), 16)
        for byte in reversed(content):
            builder.PrependByte(byte)
        data = builder.EndVector()
        builder.StartObject(3)
        builder.PrependUOffsetTRelativeSlot(0, data, 0)
        buffers.append(builder.EndObject())
    names = [builder.CreateString(name) for name, _ in entries]
    tables = []
    for index, name in enumerate(names):
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependUint32Slot(1, index, 0)
        tables.append(builder.EndObject())
    vectors = []
    for offsets in (buffers, tables):
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        vectors.append(builder.EndVector())
    builder.StartObject(8)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(4, vectors[0], 0)
    builder.PrependUOffsetTRelativeSlot(6, vectors[1], 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())
