"""Whether a data set is what a model takes, said before anything starts."""

import math
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from qflare.faults import LocalFault
from qflare.host.model import Manifest
from qflare.simulate.data import DATASETS, folder

_CHUNK: Final = 4 * 1024 * 1024  # bytes that are looked at, at a time
# What zipfile and numpy raise over an archive that is damaged.
_UNREADABLE: Final = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
)

# Of the data sets with a name: an example's shape, and how many classes there are.
_KNOWN: dict[str, tuple[list[int], int | None]] = {
    "watch": ([128, 6], 7),
    "fashion": ([28, 28, 1], 10),
    "shuttle": ([9], None),
}


def verify_fits(manifest: Manifest, dataset: str, devices: int) -> None:
    """Raise LocalFault if the model can't train on the data set; of a folder, look at each file."""
    if dataset not in DATASETS:
        for share in folder.take(Path(dataset), devices):
            verify_file(manifest, share.source)
        return
    shape, classes = _KNOWN[dataset]
    wants = len(manifest.classes) if manifest.task == "classification" else None
    labelled = manifest.task in ("classification", "autoencoder")  # what named data sets have
    if manifest.input.shape == shape and labelled and (wants is None or wants == classes):
        return
    kinds = f" in {classes} classes" if classes else " without labels"
    raise LocalFault(
        f"--dataset: {dataset} has examples {shape}{kinds}; {manifest.name} is a {manifest.task} "
        f"that takes {manifest.input.shape}" + (f" and knows {wants} classes" if wants else "")
    )


def verify_file(manifest: Manifest, path: Path) -> None:
    """Raise LocalFault unless a device's file has what the model takes.

    It asks for what `edge_runtime.sources.npz` asks for, and names the first value that is wrong.
    Every value is looked at, a piece at a time: the file may be larger than memory.
    """
    wanted: dict[str, tuple[str, list[int]]] = {
        "x": ("int32" if manifest.input.dtype == "int32" else "float32", manifest.input.shape)
    }
    if manifest.task == "classification":
        wanted["y"] = ("int32", [])
    elif manifest.task != "autoencoder":
        wanted["y"] = ("float32", manifest.output)
    try:
        with zipfile.ZipFile(path) as archive:
            _verify_arrays(manifest, path, archive, wanted)
    except zipfile.BadZipFile:
        raise LocalFault(
            f"{path} is no data file for {manifest.name}: it is no .npz archive, or a damaged one; "
            "write it again with `qflare data import` or np.savez, or remove it"
        ) from None
    except _UNREADABLE as error:
        raise LocalFault(
            f"{path} is no data file for {manifest.name}: {str(error)[:200]}; write it again"
        ) from None


def _verify_arrays(
    manifest: Manifest,
    path: Path,
    archive: zipfile.ZipFile,
    wanted: dict[str, tuple[str, list[int]]],
) -> None:
    arrays = [f"{name}_{part}" for part in ("train", "test") for name in wanted]
    there = set(archive.namelist())
    counts = {}
    for array in arrays:
        if f"{array}.npy" not in there:
            raise LocalFault(
                f"{path} has no {array}; {manifest.name} wants {', '.join(arrays)}: write them "
                "with np.savez, or let `qflare data import` make the folder"
            )
        if archive.getinfo(f"{array}.npy").compress_type != zipfile.ZIP_STORED:
            raise LocalFault(
                f"{path} is compressed, and a device reads it row by row; write it with np.savez, "
                "not np.savez_compressed"
            )
        with archive.open(f"{array}.npy") as file:
            counts[array] = _verify_header(manifest, path, array, file, wanted[array[0]])
    if not counts["x_train"]:
        raise LocalFault(f"{path} has no examples to train on; remove it, or add some")
    for array in arrays:
        x = f"x{array[1:]}"
        if counts[array] != counts[x]:
            raise LocalFault(
                f"{path}: {x} has {counts[x]} examples and {array} {counts[array]}; write one "
                "label for each example"
            )
    for array in arrays:
        with archive.open(f"{array}.npy") as file:
            _header(file)
            for first, piece in _pieces(file, array, counts[array], *wanted[array[0]]):
                _verify_values(manifest, path, array, first, piece)


def _verify_header(
    manifest: Manifest, path: Path, array: str, file: IO[bytes], wanted: tuple[str, list[int]]
) -> int:
    """How many rows an array has that is of the wanted type and shape."""
    shape, columns, dtype = _header(file)
    if dtype != wanted[0] or not shape or list(shape[1:]) != wanted[1]:
        raise LocalFault(
            f"{path}: {array} is {dtype}{list(shape)}, {manifest.name} wants "
            f"{wanted[0]}[{', '.join(map(str, ['n', *wanted[1]]))}]"
        )
    if columns and len(shape) > 1:
        raise LocalFault(f"{path}: {array} lies column by column; use np.ascontiguousarray")
    return shape[0]


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, str]:
    """Shape, whether columns come before rows, and type of an array in a .npz."""
    version = npy.read_magic(file)
    read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns, dtype = read(file)
    return tuple(shape), bool(columns), str(dtype)


def _pieces(
    file: IO[bytes], array: str, count: int, dtype: str, shape: list[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The rows, about _CHUNK bytes at a time, and the number of each piece's first one."""
    row_bytes = np.dtype(dtype).itemsize * math.prod(shape)
    most = max(1, _CHUNK // row_bytes)
    for first in range(0, count, most):
        rows = min(most, count - first)
        raw = file.read(rows * row_bytes)
        if len(raw) != rows * row_bytes:
            raise EOFError(f"{array} ends too early")
        yield first, np.frombuffer(raw, dtype).reshape(rows, *shape)
    if file.read(1):
        raise ValueError(f"{array} is longer than it says")


def _verify_values(
    manifest: Manifest, path: Path, array: str, first: int, piece: NDArray[Any]
) -> None:
    """Raise LocalFault, naming the first value of a piece that can't be trained on."""
    wants = f"{manifest.name} wants finite numbers"
    if array[0] == "x":
        if manifest.input.dtype == "int32":
            return
        wants += " that stay so when it scales them"
        with np.errstate(all="ignore"):
            mean = np.asarray(manifest.input.mean, np.float32)
            bad = ~np.isfinite((piece - mean) / np.asarray(manifest.input.scale, np.float32))
    elif manifest.task == "classification":
        top = len(manifest.classes) - 1
        bad, wants = (piece < 0) | (piece > top), f"{manifest.name} knows the classes 0…{top}"
    elif manifest.task == "multilabel":
        bad, wants = (piece != 0) & (piece != 1), f"{manifest.name} wants 0 or 1"
    else:
        bad = ~np.isfinite(piece)
    if not bad.any():
        return
    place = np.unravel_index(int(bad.argmax()), bad.shape)
    row, *rest = map(int, place)
    raise LocalFault(
        f"{path}: {array}[{', '.join(map(str, [first + row, *rest]))}] is {piece[place]}, "
        f"{wants}; correct it, or leave that example out"
    )
