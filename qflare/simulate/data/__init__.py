"""Data sets for simulated fleets, by name.

A data set is a function `prepare(cache_dir, devices, seed)` that returns one `DeviceData` per
device. Modules are imported when asked for, so that a data set's own dependency is needed only by
those who use it.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from qflare.faults import LocalFault
from qflare.simulate.data.samples import DeviceData, Labelled, write_device

__all__ = ["DATASETS", "DeviceData", "Labelled", "Prepare", "loader", "write_device"]

Prepare = Callable[[Path, int, int], list[DeviceData]]

DATASETS: Final[dict[str, str]] = {"watch": "qflare.simulate.data.watch"}


def loader(name: str) -> Prepare:
    """The `prepare` function of the data set called `name`; LocalFault if there is none."""
    try:
        module = DATASETS[name]
    except KeyError:
        known = ", ".join(sorted(DATASETS))
        raise LocalFault(f"no data set is called {name!r}; choose from: {known}") from None
    return cast(Prepare, import_module(module).prepare)
