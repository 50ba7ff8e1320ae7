"""Shoulder exercises seen by a smartwatch: ten people, two arms, twenty natural devices.

Acceleration (g) and rotation (rad/s) at 50 Hz while people did seven physiotherapy exercises
(Burns et al. 2018, "Shoulder physiotherapy exercise recognition", arXiv:1802.01489). The
recordings ship inside the BSD-3 package `seglearn`; its file is a pickle, so its digest is checked
before it is opened.

    python -m qflare.simulate.data.watch --csv watch.csv --devices 5

writes recordings as a CSV file, for trying out `qflare data import`.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from qflare.faults import LocalFault
from qflare.names import DeviceId
from qflare.simulate.data.cache import cache_dir
from qflare.simulate.data.samples import DeviceData, Labelled

SHA256: Final = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
WINDOW: Final = 128
STEP: Final = 64
RATE_HZ: Final = 50
EXERCISES: Final = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
NATURAL_DEVICES: Final = 20
PAUSE_S: Final = 10.0  # between recordings that are written to a file
_CACHE_NAME: Final = f"watch-{SHA256[:12]}.npz"


@dataclass(frozen=True, slots=True)
class Recordings:
    """All recordings end to end: recording i is `samples[offsets[i]:offsets[i + 1]]`."""

    samples: NDArray[np.float32]  # (244102, 6)
    offsets: NDArray[np.int64]  # (141,)
    exercise: NDArray[np.int32]  # (140,), 0…6
    subject: NDArray[np.int32]  # (140,), 1…10
    side: NDArray[np.int32]  # (140,), 0 left, 1 right

    def of_device(self, natural: int) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Samples and class of each recording of natural device 0…19 (subject by subject)."""
        mine = (self.subject == natural // 2 + 1) & (self.side == natural % 2)
        for i in np.flatnonzero(mine):
            yield self.samples[self.offsets[i] : self.offsets[i + 1]], int(self.exercise[i])


def prepare(
    cache_dir: Path, devices: int, seed: int, *, validation: bool = False
) -> list[DeviceData]:
    """Return the samples of `devices` devices: the first natural ones, or parts of all of them.

    The last quarter of every recording is the test part and no window crosses the cut. With
    `validation`, the test part is put aside and the last quarter of what remains takes its place:
    for choosing schedules. More than twenty devices share the natural ones' windows in blocks of
    time. Nothing here is drawn, so the seed plays no part. Raise LocalFault if the data is not
    installed, or if there are fewer windows than devices.
    """
    del seed
    recordings = load(cache_dir)
    parts = -(-devices // NATURAL_DEVICES)
    fleet: list[DeviceData] = []
    for natural in range(min(devices, NATURAL_DEVICES)):
        # The first natural devices are split once more than the last, so that the sum is exact.
        mine = len(range(natural, devices, NATURAL_DEVICES)) if parts > 1 else 1
        shares = zip(*_shares(recordings, natural, mine, validation), strict=True)
        for train, test in shares:
            if not len(train):
                raise LocalFault(f"the watch data has too few windows for {devices} devices")
            name = DeviceId.parse(f"watch-{len(fleet) + 1:04d}")
            fleet.append(DeviceData(name, train, test))
    return fleet


def channel_statistics(recordings: Recordings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel over all training parts, both (6,)."""
    parts = [
        samples[: _cut(len(samples))]
        for natural in range(NATURAL_DEVICES)
        for samples, _ in recordings.of_device(natural)
    ]
    everything = np.concatenate(parts).astype(np.float64)
    return everything.mean(axis=0), everything.std(axis=0)


def load(cache_dir: Path) -> Recordings:
    """Return the recordings, from the cache if it is sound, else from the installed package."""
    cache = cache_dir / _CACHE_NAME
    try:
        with np.load(cache, allow_pickle=False) as file:
            return Recordings(**{name: file[name] for name in Recordings.__dataclass_fields__})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        recordings = _unpickle(_package_file().read_bytes())
    cache_dir.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_name(f"{_CACHE_NAME}.{os.getpid()}")
    with unfinished.open("wb") as out:
        np.savez(
            out, **{name: getattr(recordings, name) for name in Recordings.__dataclass_fields__}
        )
    unfinished.replace(cache)
    return recordings


def write_csv(path: Path, cache_dir: Path, devices: int) -> int:
    """Write the first natural devices' recordings as a person's own file might be; return the rows.

    Seconds start at 0 for each device, and recordings are PAUSE_S apart.
    """
    recordings, rows = load(cache_dir), 0
    with path.open("w", encoding="ascii") as file:
        file.write("seconds,subject,exercise,ax,ay,az,wx,wy,wz\n")
        for natural in range(devices):
            began = 0.0
            for samples, exercise in recordings.of_device(natural):
                for i, sample in enumerate(samples.tolist()):
                    values = ",".join(f"{value:.9g}" for value in sample)
                    seconds = f"{began + i / RATE_HZ:.2f}"
                    file.write(
                        f"{seconds},watch-{natural + 1:04d},{EXERCISES[exercise]},{values}\n"
                    )
                began += len(samples) / RATE_HZ + PAUSE_S
                rows += len(samples)
    return rows


def _package_file() -> Path:
    """Where the package keeps its recordings; found without importing it (and scikit-learn)."""
    spec = find_spec("seglearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "data" / "watch_dataset.npy"
        if path.is_file():
            return path
    raise LocalFault("the watch data is not installed; run: pip install 'qflare[demo]'")


def _unpickle(raw: bytes) -> Recordings:
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SHA256:
        raise LocalFault(
            f"seglearn's watch file is not the one we know (SHA-256 {digest}, want {SHA256}); "
            "it was not opened. Run: pip install --force-reinstall seglearn==1.2.5"
        )
    content: dict[str, Any] = np.load(BytesIO(raw), allow_pickle=True).item()
    lengths = [len(samples) for samples in content["X"]]
    return Recordings(
        samples=np.concatenate(content["X"]).astype(np.float32),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        exercise=np.asarray(content["y"], np.int32),
        subject=np.asarray(content["subject"], np.int32),
        side=np.asarray(content["side"], np.int32),
    )


def _cut(samples: int) -> int:
    return samples * 3 // 4


def _windows(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """All windows that fit, (n, 128, 6)."""
    if len(samples) < WINDOW:
        return np.empty((0, WINDOW, samples.shape[1]), np.float32)
    view = np.lib.stride_tricks.sliding_window_view(samples, WINDOW, axis=0)[::STEP]
    return np.ascontiguousarray(view.transpose(0, 2, 1))


def _shares(
    recordings: Recordings, natural: int, parts: int, validation: bool
) -> tuple[list[Labelled], list[Labelled]]:
    """Training and test windows of one natural device, each dealt to `parts` devices."""
    train: list[tuple[NDArray[np.float32], int]] = []
    test: list[tuple[NDArray[np.float32], int]] = []
    for samples, exercise in recordings.of_device(natural):
        known = samples[: _cut(len(samples))] if validation else samples
        cut = _cut(len(known))
        train.append((_windows(known[:cut]), exercise))
        test.append((_windows(known[cut:]), exercise))
    return _deal(train, parts), _deal(test, parts)


def _deal(labelled: list[tuple[NDArray[np.float32], int]], parts: int) -> list[Labelled]:
    """Cut each recording's windows into `parts` blocks of time, so that sizes differ little."""
    xs: list[list[NDArray[np.float32]]] = [[] for _ in range(parts)]
    ys: list[list[NDArray[np.int32]]] = [[] for _ in range(parts)]
    first = 0  # who gets the first block, which is the longer one, of the next recording
    for windows, exercise in labelled:
        for i, block in enumerate(np.array_split(windows, parts)):
            part = (first + i) % parts
            xs[part].append(block)
            ys[part].append(np.full(len(block), exercise, np.int32))
        first += len(windows) % parts
    return [Labelled(np.concatenate(x), np.concatenate(y)) for x, y in zip(xs, ys, strict=True)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m qflare.simulate.data.watch")
    parser.add_argument("--csv", type=Path, required=True, metavar="FILE", help="to write")
    parser.add_argument("--devices", type=int, default=5, choices=range(1, NATURAL_DEVICES + 1))
    args = parser.parse_args(argv)
    try:
        rows = write_csv(args.csv, cache_dir(args.csv.absolute().parent), args.devices)
    except (OSError, LocalFault) as fault:
        print(f"watch: {fault}", file=sys.stderr)
        return 1
    print(f"wrote {args.csv}: {rows:,} rows of {args.devices} devices")
    return 0


if __name__ == "__main__":
    sys.exit(main())
