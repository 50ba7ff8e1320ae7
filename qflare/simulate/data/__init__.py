"""Data sets for simulated fleets, by name.

A data set is a function `prepare(cache_dir, devices, seed)` that returns one `Share` per device.
Modules are imported when asked for, so that a data set's own dependency is needed only by those
who use it.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from qflare.faults import LocalFault
from qflare.simulate.data.samples import DeviceData, DeviceFile, Labelled, Share, write_device

__all__ = [
    "DATASETS",
    "JUDGED",
    "DeviceData",
    "DeviceFile",
    "Labelled",
    "Prepare",
    "Share",
    "judgement",
    "loader",
    "write_device",
]

JUDGED: Final = ("shuttle",)  # data sets with a `judgement`: readings, and which are anomalies
Prepare = Callable[[Path, int, int], Sequence[Share]]

DATASETS: Final[dict[str, str]] = {
    "watch": "qflare.simulate.data.watch",
    "fashion": "qflare.simulate.data.fashion",
    "shuttle": "qflare.simulate.data.shuttle",
}


def loader(name: str) -> Prepare:
    """The `prepare` function of the data set called `name`; LocalFault if there is none."""
    try:
        module = DATASETS[name]
    except KeyError:
        known = ", ".join(sorted(DATASETS))
        raise LocalFault(f"no data set is called {name!r}; choose from: {known}") from None
    return cast(Prepare, import_module(module).prepare)


def judgement(name: str, cache_dir: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Examples that no device trains on, and which are anomalies; None if nobody knows."""
    if name not in JUDGED:
        return None
    judge = import_module(DATASETS[name]).judgement
    return cast(tuple[NDArray[np.float32], NDArray[np.bool_]], judge(cache_dir))
