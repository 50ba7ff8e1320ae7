"""Read what QFLARE keeps inside a .tflite: the manifest and the initial weights.

A TFLite model is a flatbuffer (schema: tensorflow/compiler/mlir/lite/schema/schema.fbs). Its table
`Model` has `buffers` and `metadata`, a list of (name, index of a buffer). The entries that are ours
are `qflare-model`, the manifest, and `qflare-w0`, `qflare-w1`, … and `qflare-p0`, …: the initial
values of the federated and personal parameters, in the very buffers that the graph starts from.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flatbuffers import number_types
from flatbuffers.table import Table

from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.files import read_bounded
from qflare.host.model.manifest import Manifest, parse_manifest
from qflare.names import Digest

TFLITE_CEILING: Final = 256 * 1024 * 1024
MANIFEST_ENTRY: Final = "qflare-model"
METADATA_MAX: Final = 16 * 1024

# Fields of the tables, in the order of the schema.
_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file and what is in it.

    `weights` and `personal` are the initial values: float32 little-endian, flat, in the manifest's
    order.
    """

    manifest: Manifest
    tflite: bytes
    weights: bytes
    personal: bytes

    @property
    def digest(self) -> Digest:
        """What the owner vouches for."""
        return Digest.of(self.tflite)


def read_model(data: bytes) -> ModelFile:
    """Parse a model file; PeerFault says what is wrong, or that QFLARE didn't make it."""
    entries = read_metadata(data)
    if MANIFEST_ENTRY not in entries:
        raise PeerFault(
            Reason.MALFORMED,
            "a TFLite model without QFLARE's manifest; make one with: qflare model build",
        )
    manifest = parse_manifest(bytes(entries[MANIFEST_ENTRY]))
    flat = {}
    for letter, parameters in (("w", manifest.parameters), ("p", manifest.personal)):
        parts = []
        for i, parameter in enumerate(parameters):
            values = entries.get(f"qflare-{letter}{i}", memoryview(b""))
            wanted = 4 * math.prod(parameter.shape)
            if len(values) != wanted:
                raise PeerFault(
                    Reason.WRONG_SHAPE,
                    f"{parameter.name[:80]} has {len(values)} bytes of weights, want {wanted}",
                )
            parts.append(values)
        flat[letter] = b"".join(parts)
    return ModelFile(manifest, data, flat["w"], flat["p"])


def read_model_file(path: Path) -> ModelFile:
    """Read and parse the model at `path`; LocalFault names the file and the remedy."""
    try:
        return read_model(read_bounded(path, TFLITE_CEILING))
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; give the path of a .tflite file") from None
    except LocalFault:  # what is said of files that we wrote ourselves helps nobody here
        raise LocalFault(
            f"{path} is no file of at most {TFLITE_CEILING >> 20} MiB; "
            "give the path of a .tflite file"
        ) from None
    except PeerFault as fault:
        raise LocalFault(
            f"{path}: {fault.detail}; see what is wrong: qflare model check {path}"
        ) from None


def read_metadata(data: bytes) -> dict[str, memoryview]:
    """The metadata of any TFLite model, by name; PeerFault if the bytes are no such model."""
    if len(data) > TFLITE_CEILING:
        raise PeerFault(Reason.TOO_LARGE, f"model has {len(data)} bytes, at most {TFLITE_CEILING}")
    if data[4:8] != b"TFL3":
        raise PeerFault(Reason.MALFORMED, "not a TFLite model")
    try:
        return _metadata(data)
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise PeerFault(Reason.MALFORMED, f"damaged TFLite model: {error}") from None


def _metadata(data: bytes) -> dict[str, memoryview]:
    view = memoryview(data)
    model = Table(data, struct.unpack_from("<I", data)[0])
    buffers = _tables(model, _MODEL_BUFFERS)
    entries = _tables(model, _MODEL_METADATA)
    if len(entries) > METADATA_MAX:
        raise ValueError(f"{len(entries)} entries of metadata")
    found = {}
    for at in entries:
        entry = Table(data, at)
        name_at = _field(entry, _METADATA_NAME)
        name = bytes(entry.String(entry.Pos + name_at)).decode() if name_at else ""
        index_at = _field(entry, _METADATA_BUFFER)
        index = int(entry.Get(number_types.Uint32Flags, entry.Pos + index_at)) if index_at else 0
        buffer = Table(data, buffers[index])
        data_at = _field(buffer, _BUFFER_DATA)
        start, length = (buffer.Vector(data_at), buffer.VectorLen(data_at)) if data_at else (0, 0)
        if not 0 <= start <= start + length <= len(data):
            raise ValueError(f"metadata {name[:40]!r} is outside the file")
        if name in found:
            raise ValueError(f"two entries of metadata are called {name[:40]!r}")
        found[name] = view[start : start + length]
    return found


def _field(table: Any, number: int) -> int:
    """Where a field is, from the table's start; 0 if it is left out."""
    return int(table.Offset(4 + 2 * number))


def _tables(table: Any, number: int) -> list[int]:
    """The positions of a vector's tables."""
    at = _field(table, number)
    if not at:
        return []
    start, length = int(table.Vector(at)), int(table.VectorLen(at))
    if start + 4 * length > len(table.Bytes):
        raise ValueError("a list is longer than the file")
    return [int(table.Indirect(start + 4 * i)) for i in range(length)]
