"""Sensors, tables and models for the tests of data sources."""

import os
import threading
import time
import tty
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.contract import ModelContract, parse_contract
from edge_runtime.sources.base import Examples
from edge_runtime.sources.collecting import head_of
from edge_runtime.sources.ring import Ring, cipher_of
from edge_runtime.sources.segment import Rows
from edge_runtime.sources.settings import Channel, DataSection
from qflare import zoo

CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
START_US = 1_700_000_000_000_000


@cache
def zoo_bytes(name: str) -> bytes:
    return (Path(zoo.__file__).parent / name / f"{name}.tflite").read_bytes()


@cache
def zoo_contract(name: str) -> ModelContract:
    return parse_contract(zoo_bytes(name))


def watch_channels() -> tuple[Channel, ...]:
    """Those of the zoo's models of a watch, at 50 Hz."""
    says = zoo_contract("watch_cnn").manifest.input
    return tuple(Channel(n, u) for n, u in zip(says.channels, says.units, strict=True))


def motion(rows: int, kind: int, seed: int = 0) -> Any:
    """(rows, 6) that a model can tell from another kind's, on the scale of the watch's."""
    says = zoo_contract("watch_cnn").manifest.input
    random = np.random.Generator(np.random.PCG64(seed))
    t = np.arange(rows)[:, None] / 50
    wave = np.sin(2 * np.pi * (1 + kind) * t + np.arange(6))
    z = wave + 0.3 * random.standard_normal((rows, 6))
    return (z * np.array(says.scale) + np.array(says.mean)).astype(np.float32)


def fill_ring(
    settings: DataSection, parts: Iterable[tuple[int, str, Any]], key: bytes | None = None
) -> None:
    """Append recordings to a ring: when each begins (µs), its label, its values at 50 Hz."""
    quota = settings.ring.quota_mb * 1024**2
    ring = Ring(settings.path, head_of(settings), quota, cipher_of(key))
    for begin, label, values in parts:
        for first in range(0, len(values), 500):
            rows = Rows()
            for i, row in enumerate(values[first : first + 500].tolist(), first):
                rows.add(begin + i * 20_000, label, i == 0, tuple(row))
            ring.append(rows)
    ring.close()


def read_all(examples: Examples, contract: ModelContract) -> tuple[Any, Any]:
    """Everything, scaled, with labels."""
    count = len(examples)
    x = np.full((count, *contract.input_shape), -99, np.float32)
    y: Any = None
    if contract.label_shape is not None:
        y = np.full((count, *contract.label_shape), -99, contract.label_dtype)
    examples.read(np.arange(count), x, y)
    return x, y


def settle(folder: Path) -> None:
    """Make files look as if nobody had written to them for a while."""
    now = time.time_ns()
    for path in folder.rglob("*"):
        if path.is_file() and now - path.stat().st_mtime_ns < 30 * 10**9:
            os.utime(path, ns=(now, now - 60 * 10**9))


def wait_for(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until it is true; fail if it takes unreasonably long."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.01)


class Cable:
    """A pseudo-terminal under a name that stays, as udev gives it; it can be cut and plugged in."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._ours = -1
        self.plug()

    def plug(self) -> None:
        self._ours, theirs = os.openpty()
        tty.setraw(theirs)
        link = self.name.with_suffix(".new")
        link.symlink_to(os.ttyname(theirs))
        link.rename(self.name)
        self._theirs = theirs  # held, so that nothing is lost while nobody has it open

    def cut(self) -> None:
        """The adapter is pulled out: whoever reads gets an error."""
        self.name.unlink()
        os.close(self._theirs)
        os.close(self._ours)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._ours, data[:512]) :]
