"""Rows on their way from files that mix devices to one device after another, on disk.

Memory holds a bounded number of rows, however large the files are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qflare.faults import LocalFault, PeerFault
from qflare.names import DeviceId
from qflare.simulate.importer.plan import CLASSES_MAX, DEVICES_MAX, NAME_MAX
from qflare.simulate.importer.reading import Row

_CELLS_MAX: Final = 2**20  # values that wait in memory, over all devices
NO_TIME: Final = -1.0


@dataclass
class _Device:
    name: DeviceId
    original: str
    waiting: list[tuple[float, int, int, list[float]]] = field(default_factory=list)
    piece: int = 0  # grows where rows were left out: no window may cross that
    rows: int = 0


class Spool:
    """Rows by device, in a folder of its own, in the order in which they came."""

    def __init__(self, folder: Path, channels: int, labelled: bool) -> None:
        self._folder = folder
        self._channels = channels
        self._labelled = labelled
        self._devices: dict[str, _Device] = {}
        self._waiting = 0
        self._dtype = np.dtype(
            [("time", "<f8"), ("piece", "<i4"), ("label", "<i4"), ("x", "<f4", (channels,))]
        )
        self.labels: dict[str, int] = {}  # by code, in the order in which they came
        self.left_out = 0  # rows without a value or a label

    def add(self, row: Row) -> None:
        """Take a row; LocalFault if its device or label can't be."""
        device = self._devices.get(row.device) or self._new_device(row.device)
        if row.values is None or (self._labelled and row.label is None):
            self.left_out += 1
            device.piece += 1
            return
        label = 0
        if self._labelled and row.label is not None:
            label = self.labels.get(row.label, -1)
            if label < 0:
                label = self._new_label(row.label)
        time = NO_TIME if row.time is None else row.time
        device.waiting.append((time, device.piece, label, row.values))
        device.rows += 1
        self._waiting += self._channels + 4
        if self._waiting > _CELLS_MAX:
            self.flush()

    def end_file(self) -> None:
        """No window may cross from this file to the next."""
        for device in self._devices.values():
            device.piece += 1

    def flush(self) -> None:
        """Put what waits on disk."""
        for device in self._devices.values():
            if device.waiting:
                with np.errstate(over="ignore"):
                    rows = np.array(device.waiting, self._dtype)
                if not np.isfinite(rows["x"]).all():
                    raise LocalFault(
                        f"device {device.original!r} has values beyond 3.4e38, which no model takes"
                    )
                with self._path(device).open("ab") as file:
                    rows.tofile(file)
                device.waiting.clear()
        self._waiting = 0

    def devices(self) -> Iterator[tuple[DeviceId, str, NDArray[Any]]]:
        """Each device's name, what the files call it, and its rows, which stay on disk.

        Fields: time (s; NO_TIME if there is none), piece, label (code), x (channels).
        """
        self.flush()
        for device in sorted(self._devices.values(), key=lambda d: d.name):
            path = self._path(device)
            if device.rows:
                yield device.name, device.original, np.memmap(path, self._dtype, "r")
                path.unlink()

    def _path(self, device: _Device) -> Path:
        return self._folder / f"{device.name}.rows"

    def _new_device(self, original: str) -> _Device:
        try:
            name = DeviceId.parse(slug(original))
        except PeerFault:
            raise LocalFault(
                f"device {original[:40]!r} can't be a name; use letters a-z, digits and hyphens, "
                "at most 32"
            ) from None
        for other in self._devices.values():
            if other.name == name:
                raise LocalFault(
                    f"devices {other.original[:40]!r} and {original[:40]!r} would both be called "
                    f"{name!r}; rename one"
                )
        if len(self._devices) == DEVICES_MAX:
            raise LocalFault(
                f"more than {DEVICES_MAX:,} devices; is this the right column for --device?"
            )
        self._devices[original] = _Device(name, original)
        return self._devices[original]

    def _new_label(self, label: str) -> int:
        if len(label) > NAME_MAX:
            raise LocalFault(f"label {label[:40]!r}… has more than {NAME_MAX} characters")
        if len(self.labels) == CLASSES_MAX:
            raise LocalFault(
                f"more than {CLASSES_MAX:,} labels; is this the right column for --label?"
            )
        return self.labels.setdefault(label, len(self.labels))


def slug(original: str) -> str:
    """A device's name as topics and certificates take it: "Subject 7" is "subject-7"."""
    return re.sub(r"[^a-z0-9]+", "-", original.lower()).strip("-")
