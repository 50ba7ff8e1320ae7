"""Sensors of a space shuttle: normal readings to learn, anomalies to tell from them.

Statlog (Shuttle), UCI: nine channels, 49,097 readings, of which 3,511 are anomalies. The file comes
with the BSD-3 package `river`. Its rows are shuffled, but its first channel is the time; each
device holds a stretch of it, so that devices know different states of the machine.
"""

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qflare.faults import LocalFault
from qflare.names import DeviceId
from qflare.simulate.data.samples import DeviceData, Labelled

CHANNELS: Final = tuple(f"f{i}" for i in range(1, 10))
# Of the normal readings, in raw units: the median, and 0.7413 of the range between the quartiles
# (as a standard deviation would be without the few readings that are off by hundreds), at least 1.
CENTRE: Final = (43.0, 0.0, 82.0, 0.0, 42.0, 0.0, 40.0, 41.0, 2.0)
SPREAD: Final = (8.896, 1.0, 5.930, 1.0, 7.413, 7.413, 5.930, 11.861, 1.483)
REACH: Final = 10.0  # spreads from the centre at which a reading is cut off, as a sensor would
_ROWS_MAX: Final = 200_000
_BYTES_MAX: Final = 16 * 1024 * 1024
_FOURTH: Final = 4  # every fourth normal reading is never trained on


def prepare(
    cache_dir: Path, devices: int, seed: int, *, validation: bool = False
) -> list[DeviceData]:
    """Return the normal readings of `devices` devices: consecutive stretches of time.

    Every fourth reading is the test part. With `validation`, it is put aside, and every fourth of
    the others takes its place: for choosing schedules. Nothing is drawn, so the seed plays no part.
    Raise LocalFault if the data isn't installed, or if there are too few readings.
    """
    del cache_dir, seed
    x, anomalous = load()
    normal = x[~anomalous]
    ordered = normal[np.argsort(normal[:, 0], kind="stable")]
    fleet = []
    for i, block in enumerate(np.array_split(ordered, devices), 1):
        train, test = _parts(block)
        if validation:
            train, test = _parts(train)
        if not len(test):
            raise LocalFault(f"the shuttle data has too few readings for {devices} devices")
        name = DeviceId.parse(f"shuttle-{i:04d}")
        fleet.append(DeviceData(name, Labelled(train, None), Labelled(test, None)))
    return fleet


def judgement(
    cache_dir: Path, *, validation: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Readings that no device trains on, (n, 9), and which are anomalies, (n,).

    They are all the test parts, and all anomalies or, for choosing schedules, every other one.
    """
    x, anomalous = load()
    fleet = prepare(cache_dir, 1, 0, validation=validation)
    strange = x[anomalous][int(validation) :: 2] if validation else x[anomalous]
    return (
        np.concatenate([fleet[0].test.x, strange]),
        np.repeat([False, True], [len(fleet[0].test), len(strange)]),
    )


def load() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """All readings, (n, 9), cut off at REACH, and which are anomalies, (n,), as in the file."""
    path = _package_file()
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            text = file.read(_BYTES_MAX)
        header, *rows = text.splitlines()
        table = np.array([row.split(",") for row in rows[:_ROWS_MAX]], np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise LocalFault(f"{path} can't be read ({error}); install river again") from None
    if header.split(",") != [*CHANNELS, "anomaly"] or table.shape[1:] != (len(CHANNELS) + 1,):
        raise LocalFault(
            f"{path} has other columns than it used to; run: pip install river==0.26.1"
        )
    centre, reach = np.array(CENTRE, np.float32), REACH * np.array(SPREAD, np.float32)
    return np.clip(table[:, :-1], centre - reach, centre + reach), table[:, -1] > 0


def _parts(block: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Three of four readings, and the fourth."""
    fourth = np.arange(len(block)) % _FOURTH == _FOURTH - 1
    return block[~fourth], block[fourth]


def _package_file() -> Path:
    """Where the package keeps its readings; found without importing it."""
    spec = find_spec("river")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "shuttle.csv.gz"
        if path.is_file():
            return path
    raise LocalFault("the shuttle data is not installed; run: pip install 'qflare[demo]'")
