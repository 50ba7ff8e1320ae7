"""Resident memory of one device daemon, idle and while it trains the demo model.

Two real `qflare-edge` processes take part in real rounds; figures are the kernel's own (VmRSS,
VmHWM of /proc). `python -m benchmarks.device [--json FILE]`
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qflare.host.supervise import ChildSpec, Supervisor
from qflare.simulate.display import DisplayState
from qflare.simulate.options import Options
from qflare.simulate.run import ENVIRONMENT, Simulation, python
from qflare.simulate.workdir import claim

TARGET_MB = 90.0


class Sampler:
    """A display that reads the daemons' memory at every change."""

    def __init__(self) -> None:
        self.simulation: Simulation | None = None
        self.before: list[int] = []
        self.after: list[int] = []
        self.peak = 0
        self.own = 0

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update(self, state: DisplayState) -> None:
        pid = self.simulation.pid("device-1") if self.simulation else None
        if pid is None:
            return
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        resident, peak = (int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
        self.peak = max(self.peak, peak)
        self.own = max(self.own, int(fields["RssAnon"].split()[0]) * 1024)
        if state.phase in ("starting", "waiting") and not state.accuracy:
            self.before.append(resident)
        elif state.phase == "done":
            self.after.append(resident)


class OneProcessEach(Simulation):
    """A simulation whose devices are daemons of their own."""

    async def start_fleet(self, supervisor: Supervisor, devices: Sequence[Path]) -> None:
        for number, path in enumerate(devices, 1):
            command = python("edge_runtime.daemon", "--config", str(path))
            await supervisor.start(ChildSpec(f"device-{number}", command, ENVIRONMENT))


def main() -> None:
    """Print the figures and, with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sampler = Sampler()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(devices=2, rounds=5, reference=False, workdir=Path(folder))
        with claim(options.workdir, keep=False) as site:
            simulation = OneProcessEach(options, site, options.workdir / "logs", sampler)
            sampler.simulation = simulation
            report = asyncio.run(simulation.run())
    assert report.ok, report.reasons
    figures = {
        "idle_before_the_first_round_mb": max(sampler.before, default=0) / 1e6,
        "idle_after_the_last_round_mb": max(sampler.after, default=0) / 1e6,
        "peak_while_training_mb": sampler.peak / 1e6,
        "of_that_not_mapped_files_mb": sampler.own / 1e6,
        "target_mb": TARGET_MB,
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):32} {value:6.1f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
