"""Whether a data set is what a model takes, said before anything starts."""

import zipfile
from pathlib import Path
from typing import Any

from numpy.lib import format as npy

from qflare.faults import LocalFault
from qflare.host.model import Manifest
from qflare.simulate.data import DATASETS, folder

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
    """Raise LocalFault unless a device's file has what the model takes; its numbers aren't read."""
    wanted: dict[str, tuple[str, list[int] | None]] = {
        "x": ("int32" if manifest.input.dtype == "int32" else "float32", manifest.input.shape)
    }
    if manifest.task == "classification":
        wanted["y"] = ("int32", [])
    elif manifest.task != "autoencoder":
        wanted["y"] = ("float32", manifest.output)
    try:
        with zipfile.ZipFile(path) as archive:
            found = {
                f"{name}_{part}": _header(archive, f"{name}_{part}")
                for name in wanted
                for part in ("train", "test")
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise LocalFault(f"{path} is no data file for {manifest.name}: {error}") from None
    for array, (dtype, shape) in found.items():
        want_dtype, want_shape = wanted[array[0]]
        if dtype != want_dtype or not shape or list(shape[1:]) != want_shape:
            raise LocalFault(
                f"{path}: {array} is {dtype}{list(shape)}, {manifest.name} wants "
                f"{want_dtype}[{', '.join(map(str, ['n', *(want_shape or [])]))}]"
            )
    if not found["x_train"][1][0]:
        raise LocalFault(f"{path} has no examples to train on; remove it, or add some")


def _header(archive: zipfile.ZipFile, array: str) -> tuple[str, tuple[int, ...]]:
    """The type and shape of an array in a .npz."""
    with archive.open(f"{array}.npy") as file:
        version = npy.read_magic(file)
        read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    return str(dtype), tuple(shape)
