"""Examples from a NumPy archive, as an importer, an exporter or a simulation writes it.

The file holds `x_train` (n, *input shape), float32 in the contract's physical units, or int32 if
the model takes whole numbers, and `y_train`: int32 (n,) for a classification, float32 (n, *output)
for a regression, float32 (n, classes) of zeros and ones for several labels at once, nothing for an
autoencoder. `x_test` and `y_test` are likewise. It is checked once, in pieces, and never held.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract import ModelContract
from edge_runtime.pacing import Pace, Unpaced
from edge_runtime.sources.archive import Archive, Member
from edge_runtime.sources.base import Examples, Rows, Samples, Values
from edge_runtime.sources.folder import Identity
from qflare.faults import LocalFault

FILE_CEILING: Final = 64 * 1024**3  # bytes; it isn't memory, so this only stops mistakes
CHUNK: Final = 512 * 1024  # bytes that the check looks at, at a time
SMALL: Final = (
    512 * 1024
)  # a part up to here is read at once: tiny rows cost more to find than to use


class Scale:
    """(value - mean) / scale, a channel each; nothing at all for whole numbers."""

    def __init__(self, contract: ModelContract) -> None:
        says = contract.manifest.input
        self._plain = says.dtype == "int32"
        self._mean: NDArray[np.float32] = np.asarray(says.mean, np.float32)
        self._scale: NDArray[np.float32] = np.asarray(says.scale, np.float32)

    def apply(self, x: Values) -> None:
        """Scale (n, *input shape) in place."""
        if not self._plain:
            np.subtract(x, self._mean, out=x)
            np.divide(x, self._scale, out=x)


@dataclass(frozen=True, slots=True)
class _Part:
    """Where one part's arrays are."""

    x: Member
    y: Member | None

    @property
    def bytes(self) -> int:
        return sum(len(m) * m.row_bytes for m in (self.x, self.y) if m)


class NpzRows:
    """One part of an open file, read as it is asked for."""

    def __init__(self, archive: Archive, part: _Part, scale: Scale) -> None:
        self._archive, self._part, self._scale = archive, part, scale

    def __len__(self) -> int:
        return len(self._part.x)

    def read(self, rows: Rows, x: Values | None, y: Values | None) -> None:
        if x is not None:
            self._archive.pick(self._part.x, rows, x)
            self._scale.apply(x[: len(rows)])
        if y is not None and self._part.y is not None:
            self._archive.pick(self._part.y, rows, y)


class NpzSource:
    """A data file that suits a model. It isn't held open: `train` and `test` open it again."""

    def __init__(self, path: Path, contract: ModelContract, pace: Pace | None = None) -> None:
        """Raise LocalFault, naming the file and the remedy, if it does not suit the model."""
        self._path = path
        self._scale = Scale(contract)
        archive = self._open()
        try:
            self._parts = _parts(archive, contract)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise LocalFault(f"{path} is no data file for {contract.name}: {error}") from None
        for name, part in self._parts.items():
            _verify(archive, name, part, contract, self._scale, pace or Unpaced())
        if not len(self._parts["train"].x):
            raise LocalFault(f"{path} has no training samples")
        archive.verify_unchanged()
        self.identity: Identity = archive.identity

    @property
    def fresh(self) -> bool:
        """Whether the file is still the one that was checked."""
        try:
            return Identity.of(self._path.stat()) == self.identity
        except OSError:
            return False

    def train(self) -> Examples:
        return self._examples("train")

    def test(self) -> Examples:
        return self._examples("test")

    def count(self) -> int:
        """Examples to train on."""
        return len(self._parts["train"].x)

    def report(self) -> dict[str, Any]:
        """What is in it; a file with anything wrong is refused as a whole."""
        return {
            "kind": "npz",
            "path": str(self._path),
            "examples": {name: len(part.x) for name, part in self._parts.items()},
            "left_out": {},
            "problems": [],
        }

    def _examples(self, name: str) -> Examples:
        archive, part = self._open(), self._parts[name]
        if archive.identity != self.identity:
            raise LocalFault(f"{self._path} was changed since it was checked; try again")
        rows = NpzRows(archive, part, self._scale)
        if not 0 < part.bytes <= SMALL:
            return rows
        x: Values = np.empty(part.x.shape, part.x.dtype)
        y: Values | None = None if part.y is None else np.empty(part.y.shape, part.y.dtype)
        rows.read(np.arange(len(rows)), x, y)
        return Samples(x, y)

    def _open(self) -> Archive:
        try:
            archive = Archive(self._path)
        except FileNotFoundError:
            raise LocalFault(
                f"{self._path} does not exist; set the source's path to a .npz file"
            ) from None
        except OSError as error:
            raise LocalFault(f"{self._path} can't be opened: {error.strerror}") from None
        if archive.identity.size > FILE_CEILING:
            raise LocalFault(
                f"{self._path} holds {archive.identity.size} bytes, at most {FILE_CEILING}; "
                "split the data"
            )
        return archive


def _parts(archive: Archive, contract: ModelContract) -> dict[str, _Part]:
    members = archive.members()
    parts = {}
    for name in ("train", "test"):
        wanted = [f"x_{name}"] + ([f"y_{name}"] if contract.label_shape is not None else [])
        missing = [key for key in wanted if key not in members]
        if missing:
            raise KeyError(f"it has no {missing[0]}")
        found = [members[key] for key in wanted]
        parts[name] = _Part(found[0], found[1] if len(found) > 1 else None)
    return parts


def _verify(
    archive: Archive, name: str, part: _Part, contract: ModelContract, scale: Scale, pace: Pace
) -> None:
    """Look at every value of a part once, a piece at a time."""
    x_dtype = np.dtype(contract.manifest.input.dtype)
    _suits(archive, part.x, x_dtype, contract.input_shape, contract)
    if part.y is not None:
        _suits(archive, part.y, np.dtype(contract.label_dtype), contract.label_shape, contract)
        if len(part.y) != len(part.x):
            raise LocalFault(
                f"{archive.path}: {part.x.name} has {len(part.x)} examples, {part.y.name} "
                f"has {len(part.y)}; one label for each is wanted"
            )
    for x in _pieces(archive, part.x):
        pace.step()
        with np.errstate(over="ignore", invalid="ignore"):
            scale.apply(x)
        if x_dtype.kind == "f" and not np.isfinite(x).all():
            raise LocalFault(
                f"{archive.path}: x_{name} has values that are not finite; clean the data"
            )
    if part.y is not None:
        for y in _pieces(archive, part.y):
            _verify_labels(archive.path, part.y.name, y, contract)


def _suits(
    archive: Archive,
    member: Member,
    dtype: "np.dtype[np.generic]",
    shape: tuple[int, ...] | None,
    contract: ModelContract,
) -> None:
    if np.dtype(member.dtype) != dtype or member.shape[1:] != shape:
        wanted = ", ".join(map(str, ("n", *(shape or ()))))
        raise LocalFault(
            f"{archive.path}: {member.name} is {np.dtype(member.dtype)}{list(member.shape)}, "
            f"{contract.name} wants {dtype}[{wanted}]"
        )


def _pieces(archive: Archive, member: Member) -> Iterator[Values]:
    """The rows in order, about CHUNK bytes at a time, in one array that is filled anew."""
    size = max(1, min(len(member), CHUNK // max(member.row_bytes, 1)))
    buffer: Values = np.empty((size, *member.shape[1:]), member.dtype)
    for first in range(0, len(member), size):
        piece = buffer[: len(member) - first]
        archive.rows(member, first, piece)
        yield piece


def _verify_labels(path: Path, name: str, y: Values, contract: ModelContract) -> None:
    match contract.manifest.task:
        case "classification":
            top = len(contract.manifest.classes) - 1
            if not 0 <= y.min() <= y.max() <= top:
                raise LocalFault(f"{path}: {name} has classes outside 0…{top}")
        case "multilabel":
            if not ((y == 0) | (y == 1)).all():
                raise LocalFault(f"{path}: {name} has labels other than 0 and 1")
        case _:
            if not np.isfinite(y).all():
                raise LocalFault(f"{path}: {name} has values that are not finite; clean the data")
