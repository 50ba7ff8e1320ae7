"""One simulated device's samples, and the file in which it finds them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qflare.names import DeviceId


@dataclass(frozen=True, slots=True)
class Labelled:
    """Windows in physical units and their classes: x (n, window, channels), y (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class DeviceData:
    """What one device knows: its training windows, and test windows that it never trains on."""

    device: DeviceId
    train: Labelled
    test: Labelled


def write_device(path: Path, data: DeviceData) -> None:
    """Write the .npz that `edge_runtime.sources.npz` reads; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".npz.part")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            x_train=data.train.x,
            y_train=data.train.y,
            x_test=data.test.x,
            y_test=data.test.y,
        )
    unfinished.replace(path)
