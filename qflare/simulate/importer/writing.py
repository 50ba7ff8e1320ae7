"""The files of an import: `<device>.npz` with windows, row after row, and `schema.toml`."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from qflare.simulate.importer.plan import Plan
from qflare.simulate.importer.windows import Recording, starts

_CHUNK = 4 * 1024 * 1024  # bytes of windows at a time


class Moments:
    """Mean and variance of each channel, of rows that come in pieces (Chan et al. 1983)."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._spread = np.zeros(channels)  # sum of squared differences from the mean

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take rows, (n, channels)."""
        if not len(rows):
            return
        x = rows.astype(np.float64)
        count, mean = len(x), x.mean(axis=0)
        between, total = mean - self._mean, self._count + count
        self._spread += ((x - mean) ** 2).sum(axis=0) + between**2 * self._count * count / total
        self._mean += between * count / total
        self._count = total

    def mean(self) -> list[float]:
        return [float(f"{value:.6g}") for value in self._mean]

    def scale(self) -> list[float]:
        """Standard deviations; 1 where a channel is always the same."""
        deviations = np.sqrt(self._spread / max(self._count, 1))
        return [float(f"{value:.6g}") if value > 1e-9 else 1.0 for value in deviations]


def counts(plan: Plan, parts: Sequence[Recording]) -> tuple[int, int]:
    """How many windows there are to train on and to test."""
    train = sum(len(starts(r.start, r.cut, plan.window, plan.step)) for r in parts)
    test = sum(len(starts(r.cut, r.stop, plan.window, plan.step)) for r in parts)
    return train, test


def write_windows(
    path: Path,
    plan: Plan,
    x: NDArray[np.float32],
    parts: Sequence[Recording],
    codes: NDArray[np.int32] | None,
) -> None:
    """Write one device's file, uncompressed, so that a device can read any window of it.

    x (rows, channels) may be on disk; `codes` has the class of each label, None if there are none.
    """
    shape = (*plan.shape, x.shape[1])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, sizes, spans in (
            ("train", counts(plan, parts)[0], [(r.start, r.cut, r.label) for r in parts]),
            ("test", counts(plan, parts)[1], [(r.cut, r.stop, r.label) for r in parts]),
        ):
            with _member(archive, f"x_{name}") as file:
                _header(file, "<f4", (sizes, *shape))
                for first, end, _ in spans:
                    for piece in _windows(x, first, end, plan):
                        file.write(piece.data.cast("B"))
            if codes is not None:
                with _member(archive, f"y_{name}") as file:
                    _header(file, "<i4", (sizes,))
                    for first, end, label in spans:
                        many = len(starts(first, end, plan.window, plan.step))
                        file.write(np.full(many, codes[label], "<i4").tobytes())


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """With a fixed date, so that the same rows give the same bytes."""
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _windows(
    x: NDArray[np.float32], first: int, end: int, plan: Plan
) -> Iterator[NDArray[np.float32]]:
    """The windows of rows first…end, (n, window, channels), a bounded number at a time."""
    begins = starts(first, end, plan.window, plan.step)
    many = max(1, _CHUNK // (4 * plan.window * x.shape[1]))
    for at in range(0, len(begins), many):
        chosen = begins[at : at + many]
        low = int(chosen[0])
        rows = np.asarray(x[low : int(chosen[-1]) + plan.window])
        view = np.lib.stride_tricks.sliding_window_view(rows, plan.window, axis=0)[chosen - low]
        yield np.ascontiguousarray(view.transpose(0, 2, 1), "<f4")


def schema(
    plan: Plan,
    names: Sequence[str],
    moments: Moments,
    rate_hz: float | None,
    classes: Sequence[str],
) -> str:
    """The text of schema.toml, which `qflare model build --schema` reads."""
    given: dict[str, Any] = {
        "channels": list(names),
        "units": list(plan.units or ["1"] * len(names)),
        "mean": moments.mean(),
        "scale": moments.scale(),
        "shape": [*plan.shape, len(names)],
    }
    if rate_hz is not None:
        given["rate_hz"] = rate_hz
    lines = ["# What one example is, for: qflare model build --schema"]
    if classes:
        lines.append(f"classes = {_toml(list(classes))}")
    lines += ["", "[input]", *(f"{key} = {_toml(value)}" for key, value in given.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """TOML's basic strings and arrays are JSON's, but for the character DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
