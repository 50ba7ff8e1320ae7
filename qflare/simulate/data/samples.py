"""One simulated device's samples, and the file in which it finds them."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qflare.names import DeviceId


@dataclass(frozen=True, slots=True)
class Labelled:
    """Examples in physical units, x (n, *shape), float32 or int32, and what belongs to each.

    y is int32 (n,) for classes, float32 (n, *output) for values or labels that are 0 or 1, and
    None where the input itself is what the model is to give back.
    """

    x: NDArray[Any]
    y: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.x)


class Share(Protocol):
    """What one device knows."""

    @property
    def device(self) -> DeviceId: ...

    def write(self, path: Path) -> None:
        """Make the .npz that `edge_runtime.sources.npz` reads; it appears whole or not at all."""
        ...


@dataclass(frozen=True, slots=True)
class DeviceData:
    """Samples in memory: those that the device trains on, and those that it never trains on."""

    device: DeviceId
    train: Labelled
    test: Labelled

    def write(self, path: Path) -> None:
        arrays = {"x_train": self.train.x, "x_test": self.test.x}
        for name, y in (("y_train", self.train.y), ("y_test", self.test.y)):
            if y is not None:
                arrays[name] = y
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".npz.part")
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        unfinished.replace(path)


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """Samples in a file that is there already, of any size."""

    device: DeviceId
    source: Path

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # another file system, or one without links
            os.link(self.source, path)
            return
        unfinished = path.with_suffix(".npz.part")
        shutil.copyfile(self.source, unfinished)
        unfinished.replace(path)


def write_device(path: Path, data: Share) -> None:
    """Make the file of one device."""
    data.write(path)
