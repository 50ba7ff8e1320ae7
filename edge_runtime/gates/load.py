"""What the device's other programs take of it: processor, stalls, queue. Ours is subtracted."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.gates.files import Unreadable, text, word
from edge_runtime.gates.readings import Load, Seen

_STAT_CEILING = 64 * 1024  # /proc/stat has a line for each core and one for all interrupts
_MINUTE = 60.0  # over which the kernel averages its first load figure
_SHORTEST_S = 1.0  # between looks: less says nothing about a load
_STALL = re.compile(r"some avg10=[0-9.]{1,9} avg60=([0-9]{1,3}\.[0-9]{1,2}) ")
_QUEUE = re.compile(r"([0-9]{1,7}\.[0-9]{1,2}) ")


@dataclass(frozen=True, slots=True)
class _Spent:
    """Clock ticks since start: of all cores, thereof at work, thereof for us."""

    total: int
    busy: int
    ours: int
    cores: int


class LoadSensor:
    """Looks at intervals: a processor's load is what was spent between two of them.

    Raspberry Pi OS doesn't measure stalls (it needs psi=1 on the kernel's command line); the
    queue stands in for them there.
    """

    def __init__(self, root: Path, ticks: int | None = None) -> None:
        self._proc = root / "proc"
        self._ticks = ticks or os.sysconf("SC_CLK_TCK")
        self._before: tuple[float, _Spent] | None = None
        self._cpu: float | None = None
        self._ours = 0.0  # cores that we took, averaged as the kernel averages its load

    def read(self, now: float, children: tuple[int, ...]) -> Seen[Load]:
        """The load since the last look; `children` are the processes that train for us."""
        troubles = []
        cpu = memory = io = queue = None
        cores = os.cpu_count() or 1
        try:
            spent = self._spent(children)
            cores = spent.cores
            cpu = self._between(now, spent)
        except Unreadable as fault:
            troubles.append(str(fault))
        try:
            memory = self._stall("memory")
            io = self._stall("io")
            if memory is None and io is None:
                queue = self._queue(cores)
        except Unreadable as fault:
            troubles.append(str(fault))
        load = Load(cpu, memory, io, queue)
        return Seen(None if load == Load() else load, "; ".join(troubles) or None)

    def _between(self, now: float, spent: _Spent) -> float | None:
        if self._before is None:
            self._before = now, spent
            return None
        then, before = self._before
        total = spent.total - before.total
        if now - then < _SHORTEST_S or total <= 0:
            if total < 0 or now < then:  # another boot, or another tree
                self._before, self._cpu = (now, spent), None
            return self._cpu
        # A child that has gone, and isn't waited for yet, takes its time with it.
        ours = min(max(spent.ours - before.ours, 0), total)
        busy = min(max(spent.busy - before.busy, 0), total)
        self._before = now, spent
        self._cpu = 100.0 * max(busy - ours, 0) / total
        fade = math.exp(-(now - then) / _MINUTE)
        self._ours = self._ours * fade + (1 - fade) * ours / self._ticks / (now - then)
        return self._cpu

    def _spent(self, children: tuple[int, ...]) -> _Spent:
        path = self._proc / "stat"
        found = text(path, _STAT_CEILING)
        if found is None:
            raise Unreadable(f"{path} is missing; the unit may hide it (ProcSubset=pid)")
        lines = found.splitlines()
        fields = lines[0].split()[:9] if lines else []
        if len(fields) < 9 or fields[0] != "cpu" or not all(map(_is_count, fields[1:])):
            raise Unreadable(f"{path}: {word(found)!r} is no line of processor times")
        user, nice, system, idle, waiting, irq, soft, steal = map(int, fields[1:])
        busy = user + nice + system + irq + soft
        cores = sum(line[3:4].isdigit() for line in lines if line.startswith("cpu"))
        ours = self._process("self") or 0
        ours += sum(self._process(str(child)) or 0 for child in children)
        return _Spent(busy + idle + waiting + steal, busy, ours, max(cores, 1))

    def _process(self, name: str) -> int | None:
        """Ticks of a process and of the children that it has waited for; None if it's gone."""
        path = self._proc / name / "stat"
        try:
            found = text(path)
        except Unreadable:  # it ended while we read
            return None
        fields = (found or "").rpartition(")")[2].split()
        times = fields[11:15]  # utime, stime, cutime, cstime: proc(5)
        if len(times) < 4 or not all(map(_is_count, times)):
            return None
        return sum(map(int, times))

    def _stall(self, kind: str) -> float | None:
        path = self._proc / "pressure" / kind
        found = text(path)
        if found is None:
            return None
        match = _STALL.match(found)
        if not match:
            raise Unreadable(f"{path}: {word(found)!r} is no line of stalls")
        return min(float(match[1]), 100.0)

    def _queue(self, cores: int) -> float | None:
        path = self._proc / "loadavg"
        found = text(path)
        if found is None:
            return None
        match = _QUEUE.match(found)
        if not match:
            raise Unreadable(f"{path}: {word(found)!r} is no load")
        return max(float(match[1]) - self._ours, 0.0) / cores


def _is_count(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) <= 18
