"""Samples from a NumPy archive, as a simulation or an exporter writes it.

The file holds `x_train` (n, *input_shape) float32 in the contract's physical units, `y_train` (n,)
int32, and `x_test`, `y_test` likewise.
"""

import zipfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.sources.base import Samples
from qflare.faults import LocalFault

FILE_CEILING: Final = 256 * 1024 * 1024  # bytes, and again for the arrays once unpacked


class NpzSource:
    """Reads the whole file at once and keeps it in memory, scaled for the model."""

    def __init__(self, path: Path, contract: ModelContract) -> None:
        """Raise LocalFault, naming the file and the remedy, if it does not suit the model."""
        self._train, self._test = _read(path, contract)

    def train(self) -> Samples:
        return self._train

    def test(self) -> Samples:
        return self._test


def _read(path: Path, contract: ModelContract) -> tuple[Samples, Samples]:
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except FileNotFoundError:
        raise LocalFault(f"{path} does not exist; set the source's path to a .npz file") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise LocalFault(f"{path} is no data file for {contract.name}: {error}") from None
    parts = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        _check(path, part, x, y, contract)
        scaled = contract.normalise(x)
        if not np.isfinite(scaled).all():
            raise LocalFault(f"{path}: x_{part} has values that are not finite; clean the data")
        parts.append(Samples(scaled, y))
    if not len(parts[0]):
        raise LocalFault(f"{path} has no training samples")
    return parts[0], parts[1]


def _check_size(path: Path) -> None:
    """Refuse a file that is large, or small and unpacks to something large."""
    size = path.stat().st_size
    if size <= FILE_CEILING:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    if size > FILE_CEILING:
        raise LocalFault(f"{path} holds {size} bytes, at most {FILE_CEILING}; split the data")


def _check(
    path: Path,
    part: str,
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    contract: ModelContract,
) -> None:
    wanted = (len(y) if y.ndim == 1 else -1, *contract.input_shape)
    if x.dtype != np.float32 or x.shape != wanted:
        raise LocalFault(f"{path}: x_{part} is {x.dtype}{x.shape}, {contract.name} wants {wanted}")
    if y.dtype != np.int32:
        raise LocalFault(f"{path}: y_{part} is {y.dtype}, want int32")
    if len(y) and not 0 <= y.min() <= y.max() < len(contract.classes):
        raise LocalFault(f"{path}: y_{part} has classes outside 0…{len(contract.classes) - 1}")
