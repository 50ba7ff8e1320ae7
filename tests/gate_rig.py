"""A tree that stands for "/", and a clock that only the test moves."""

import os
from pathlib import Path
from typing import Any

from edge_runtime.gates.keeper import GateKeeper, Look
from edge_runtime.gates.readings import Gate, Told
from edge_runtime.gates.settings import GatesSection

WALL = 1_800_000_000.0  # 2027-01-15 08:00 UTC, a Friday


def put(root: Path, files: dict[str, str]) -> None:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)


# What a Raspberry Pi with a battery shows, or near enough.
BOARD = {
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\n"
    "cpu1 50 0 50 400 0 0 0 0 0 0\nintr 1 2 3\n",
    "proc/self/stat": "1 (q) S 0 0 0 0 0 0 0 0 0 0 10 10 0 0 20 0 1 0 1 1 1\n",
    "proc/loadavg": "0.10 0.10 0.10 1/100 1000\n",
    "proc/meminfo": "MemTotal:  500000 kB\nMemFree:  100000 kB\nMemAvailable:  250000 kB\n",
    "proc/self/net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
    "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
    "sys/class/net/eth0/uevent": "INTERFACE=eth0\nIFINDEX=2\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/hwmon/hwmon0/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon0/in0_lcrit_alarm": "0\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/BAT0/capacity": "80\n",
}


class Rig:
    """A keeper over such a tree. `look` lets `after` seconds pass first."""

    def __init__(self, root: Path, settings: GatesSection | None = None, **more: Any) -> None:
        self.root, self.now, self.wall = root, 1000.0, WALL
        put(root, BOARD)
        (root / "state").mkdir(exist_ok=True)
        self.keeper = GateKeeper(
            settings or GatesSection(),
            root / "state",
            root=root,
            clock=lambda: self.now,
            wall=lambda: self.wall,
            **more,
        )

    def put(self, path: str, value: str) -> None:
        put(self.root, {path: value})

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def look(self, after: float = 15.0, **told: Any) -> Look:
        self.now += after
        self.wall += after
        return self.keeper.look(Told(**told))

    def says(self, gate: Gate) -> str:
        return next(line.says for line in self.keeper.verdict.lines if line.gate is gate)

    def spend(self, busy: int, idle: int, ours: int = 0) -> None:
        """Let the two cores spend so many ticks more, `ours` of the busy ones by us."""
        stat = (self.root / "proc/stat").read_text()
        fields = stat.splitlines()[0].split()
        fields[1], fields[4] = str(int(fields[1]) + busy), str(int(fields[4]) + idle)
        self.put("proc/stat", "\n".join([" ".join(fields), *stat.splitlines()[1:]]) + "\n")
        own = (self.root / "proc/self/stat").read_text().split()
        own[13] = str(int(own[13]) + ours)
        self.put("proc/self/stat", " ".join(own) + "\n")


TICKS = os.sysconf("SC_CLK_TCK")
