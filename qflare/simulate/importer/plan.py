"""What an import is asked for, checked before a file is opened."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault

CHANNELS_MAX: Final = 4096
CLASSES_MAX: Final = 1024
DEVICES_MAX: Final = 10_000
EXAMPLE_MAX: Final = 2**22  # values in one window
NAME_MAX: Final = 200  # characters of a channel, a unit or a class
UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Plan:
    """Which columns mean what, and how windows are cut. LocalFault, when made, if that can't be.

    Without `device`, each file is a device and is called like it. Without `label`, windows have
    no label. Without `time`, rows are as far apart as they should be. Without `channels`, all
    other columns are channels. A window of one row is an example without a time axis.
    """

    files: tuple[Path, ...]
    folder: Path
    device: str | None = None
    label: str | None = None
    time: str | None = None
    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()  # of the channels; "1" if left out
    classes: tuple[str, ...] = ()  # in this order; sorted if left out
    window: int = 128
    step: int = 64
    test: float = 0.25  # the share of each recording, at its end
    max_gap: float | None = None  # seconds between rows of one recording; three intervals
    time_unit: str = "s"
    delimiter: str | None = None  # found in the first line

    _roles: tuple[str, ...] = field(init=False, default=("device", "label", "time"))

    def __post_init__(self) -> None:
        named = [name for role in self._roles if (name := getattr(self, role)) is not None]
        named += self.channels
        for ok, problem in (
            (self.files, "name at least one CSV file"),
            (1 <= self.window <= 2**20, "--window: between 1 and 1,048,576 rows"),
            (1 <= self.step <= 2**20, "--step: between 1 and 1,048,576 rows"),
            (0 <= self.test < 1, "--test: a share of 0 or more, and less than 1"),
            (self.max_gap is None or self.max_gap > 0, "--max-gap: more than 0 seconds"),
            (self.time_unit in UNITS, f"--time-unit: choose from {', '.join(UNITS)}"),
            (len(self.channels) <= CHANNELS_MAX, f"--channels: at most {CHANNELS_MAX:,}"),
            (len(set(named)) == len(named), "one column can't be two things; name each once"),
            (
                not self.units or not self.channels or len(self.units) == len(self.channels),
                "--units: one for each of --channels",
            ),
            (
                len(set(self.classes)) == len(self.classes) <= CLASSES_MAX,
                f"--classes: at most {CLASSES_MAX:,}, each once",
            ),
            (not self.classes or self.label, "--classes: name the column by --label too"),
            (
                self.delimiter is None or len(self.delimiter) == 1,
                "--delimiter: one character",
            ),
        ):
            if not ok:
                raise LocalFault(problem)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example, without its channels."""
        return () if self.window == 1 else (self.window,)
