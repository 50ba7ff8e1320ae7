"""What the kernel says of a daemon and its training process: memory and processor time."""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]
    return []


def memory(pid: int) -> dict[str, int]:
    """Bytes by the kernel's names (Rss, Pss, Anonymous, …); empty if the process is gone."""
    found = {}
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            found[name] = int(value.split()[0]) * 1024
    return found


def cpu(pid: int) -> float:
    """Seconds of processor time that the process took, without its children."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK
    return 0.0


@dataclass
class Sampler(threading.Thread):
    """Looks 20 times a second, on a thread of its own."""

    pid: int
    peaks: dict[str, int] = field(default_factory=dict)  # of both processes together
    daemon_peak: int = 0  # PSS
    child_cpu: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self._done.wait(0.05):
            self.look()

    def look(self) -> None:
        mine, total = memory(self.pid), {"Pss": 0, "Rss": 0, "Anonymous": 0}
        kids = children(self.pid)
        for it in (mine, *(memory(kid) for kid in kids)):
            for name in total:
                total[name] += it.get(name, 0)
        for name, value in total.items():
            self.peaks[name] = max(self.peaks.get(name, 0), value)
        self.daemon_peak = max(self.daemon_peak, mine.get("Pss", 0))
        for kid in kids:
            self.child_cpu[kid] = max(self.child_cpu.get(kid, 0.0), cpu(kid))

    def stop(self) -> None:
        self._done.set()
        self.join()


def cpu_over(pid: int, seconds: float) -> float:
    """Seconds of processor time a minute, measured over so many seconds."""
    before, began = cpu(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu(pid) - before) / (time.monotonic() - began) * 60
