"""What the kernel says of a process and all that it started: memory, processor time, writes."""

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.device.proxy import Proxy

TICK = 1 / os.sysconf("SC_CLK_TCK")
KINDS = ("Pss", "Rss", "Anonymous")  # of smaps_rollup
MINUTES_A_DAY = 24 * 60


def tree(pid: int) -> list[int]:
    """The process and its descendants, those included that ended and weren't waited for."""
    found = [pid]
    for it in found:  # grows on the way
        for path in Path(f"/proc/{it}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(word) for word in path.read_text().split()]
    return found


def memory(pid: int) -> dict[str, int]:
    """Bytes by the kernel's names (Rss, Pss, Anonymous, …); empty if the process is gone."""
    found = {}
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            found[name] = int(value.split()[0]) * 1024
    return found


def memory_of_tree(pid: int) -> dict[str, int]:
    """The same of all processes together."""
    each = [memory(it) for it in tree(pid)]
    return {kind: sum(found.get(kind, 0) for found in each) for kind in KINDS}


def cpu(pid: int) -> float:
    """Seconds of processor time, that of the children that it waited for included."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) * TICK
    return 0.0


def written(pid: int) -> int:
    """Bytes that it caused to be written to a disk, likewise with its children's.

    Not in it is what the file system adds; benchmarks.power_loss.writes has that.
    """
    with suppress(OSError, ValueError):
        said = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(said["write_bytes"]) - int(said["cancelled_write_bytes"])
    return 0


@dataclass(frozen=True)
class Reading:
    """What a device side has used up to now."""

    at: float  # time.monotonic
    cpu: float  # seconds
    written: int  # bytes
    up: int
    down: int

    def __sub__(self, before: "Reading") -> "Reading":
        return Reading(
            self.at - before.at,
            self.cpu - before.cpu,
            self.written - before.written,
            self.up - before.up,
            self.down - before.down,
        )


def read(pid: int, proxy: Proxy) -> Reading:
    """Read the meters of the processes under `pid`, and of its connection."""
    pids = tree(pid)
    return Reading(
        time.monotonic(), sum(map(cpu, pids)), sum(map(written, pids)), proxy.up, proxy.down
    )


def of_rounds(used: Reading, rounds: int, training_cpu_s: float) -> dict[str, float]:
    """Figures of a round, of which so many seconds of processor time were training."""
    each = used.cpu / rounds
    return {
        "seconds_per_round": used.at / rounds,
        "cpu_s_per_round": each,
        "training_cpu_s_per_round": training_cpu_s,
        "cpu_s_per_round_outside_training": max(0.0, each - training_cpu_s),
        "bytes_up_per_round": used.up / rounds,
        "bytes_down_per_round": used.down / rounds,
        "written_kb_per_round": used.written / rounds / 1e3,
    }


def of_starts(starts: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The quickest of some starts, and the least processor time; files are in the page cache."""
    return {
        "cold_start_s": min(seconds for seconds, _ in starts),
        "cold_start_cpu_s": min(used for _, used in starts),
    }


async def at_rest(pid: int, proxy: Proxy, seconds: float) -> dict[str, float]:
    """Figures of so many seconds in which nothing is asked of the device."""
    before = read(pid, proxy)
    await asyncio.sleep(seconds)
    used = read(pid, proxy) - before
    minutes = used.at / 60
    return {
        "idle_cpu_s_per_minute": used.cpu / minutes,
        "idle_bytes_per_minute": (used.up + used.down) / minutes,
        "idle_bytes_up_per_minute": used.up / minutes,
        "idle_written_mb_per_day": used.written / minutes * MINUTES_A_DAY / 1e6,
        **megabytes("idle", memory_of_tree(pid)),
    }


def megabytes(when: str, found: dict[str, int]) -> dict[str, float]:
    return {f"{when}_{kind.lower()}_mb": found[kind] / 1e6 for kind in KINDS}


@dataclass
class Sampler(threading.Thread):
    """Looks at the memory ten times a second, on a thread of its own, and keeps the peaks."""

    pid: int
    peaks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self._done.wait(0.1):
            for kind, value in memory_of_tree(self.pid).items():
                self.peaks[kind] = max(self.peaks[kind], value)

    def stop(self) -> None:
        self._done.set()
        self.join()
