"""The device side, as systemd starts it, in real rounds of the demo model and then at rest.

`python -m benchmarks.device [--json FILE] [--rounds N] [--idle SECONDS]`

Two `qflare-edge` daemons with their training processes take part in real rounds; one is measured:
memory of daemon and training process together (PSS and RSS of smaps_rollup), processor time, bytes
through a counting proxy before the broker, and the time from exec to READY=1. PSS shares the pages
of libraries between all processes that map them, so on a machine that runs more Python it is lower
than on a device; the RSS of the daemon alone has no such help, and is given too.

At rest a device hears keep-alives, and the coordinator repeating manifest and model, ever more
rarely: once an hour when nothing is new. The figure for traffic counts the repetition at that pace;
what was measured in the minutes after a round is given beside it.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.device.proxy import Proxy
from benchmarks.device.sampling import Sampler, children, cpu, cpu_over, memory
from coordinator.machine import RESAY_LAST_S
from qflare.host.supervise import ChildSpec, Supervisor
from qflare.simulate.display import DisplayState
from qflare.simulate.monitor import Monitor
from qflare.simulate.options import Options
from qflare.simulate.run import ENVIRONMENT, Simulation, python
from qflare.simulate.workdir import claim

TARGETS = {
    "idle_pss_mb": 40.0,
    "training_pss_mb": 100.0,
    "idle_cpu_s_per_minute": 0.2,
    "cpu_s_per_round_outside_training": 0.15,
    "idle_bytes_per_minute": 2048.0,
    "cold_start_s": 1.5,
}
_REPEATED = 1024  # bytes; what is as large is the coordinator saying again what stands retained
_IDLE_EXIT_S = 3.0  # shortened, so that the rest begins soon


class Quiet:
    """A display that shows nothing."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update(self, state: DisplayState) -> None:
        pass


class Measured(Simulation):
    """A simulation whose devices are daemons of their own; the first is measured."""

    def measure(self, rounds: int, idle_s: float) -> None:
        self.rounds, self.idle_s = rounds, idle_s
        self.figures: dict[str, Any] = {}

    async def start_fleet(self, supervisor: Supervisor, devices: Sequence[Path]) -> None:
        url = next(
            line.split('"')[1]
            for line in devices[0].read_text().splitlines()
            if line.startswith("url")
        )
        self.proxy = Proxy(url)
        through = await self.proxy.start()
        environment = {
            **ENVIRONMENT,
            "PYTHONOPTIMIZE": "2",
            "QFLARE_EDGE__PROCESS__IDLE_S": str(_IDLE_EXIT_S),
        }
        self.figures["cold_start_s"] = await asyncio.to_thread(
            cold_start, devices[0], environment | {"QFLARE_EDGE__BROKER__URL": through}
        )
        for number, path in enumerate(devices, 1):
            own = {"QFLARE_EDGE__BROKER__URL": through} if number == 1 else {}
            command = python("edge_runtime.daemon", "--config", str(path))
            await supervisor.start(ChildSpec(f"device-{number}", command, environment | own))
        pid = self.pid("device-1")
        assert pid is not None
        self.sampler = Sampler(pid)
        self.sampler.start()
        await asyncio.sleep(1.0)  # the start is over
        self.started = cpu(pid)

    async def _watch(self, supervisor: Supervisor, monitor: Monitor) -> None:
        await super()._watch(supervisor, monitor)
        pid = self.sampler.pid
        self.sampler.stop()
        figures = self.figures
        figures["training_pss_mb"] = self.sampler.peaks["Pss"] / 1e6
        figures["training_rss_mb"] = self.sampler.peaks["Rss"] / 1e6
        figures["daemon_cpu_s_per_round"] = (cpu(pid) - self.started) / self.rounds
        self.child_cpu = sum(self.sampler.child_cpu.values())
        while children(pid):
            await asyncio.sleep(0.1)
        before = len(self.proxy.pieces)
        began = time.monotonic()
        figures["idle_cpu_s_per_minute"] = await asyncio.to_thread(cpu_over, pid, self.idle_s)
        minutes = (time.monotonic() - began) / 60
        pieces = self.proxy.pieces[before:]
        said = [size for size in pieces if size >= _REPEATED]
        figures["idle_bytes_per_minute_soon_after_a_round"] = sum(pieces) / minutes
        figures["idle_bytes_per_minute"] = (
            sum(size for size in pieces if size < _REPEATED) / minutes
            + max(said, default=0) / RESAY_LAST_S * 60
        )
        found = memory(pid)
        figures["idle_pss_mb"] = found["Pss"] / 1e6
        figures["idle_rss_mb"] = found["Rss"] / 1e6
        figures["idle_anonymous_mb"] = found["Anonymous"] / 1e6
        self.proxy.close()


def cold_start(config: Path, environment: dict[str, str]) -> float:
    """Seconds from exec to READY=1, the least of three starts; files are in the page cache."""
    return min(_one_start(config, environment) for _ in range(3))


def _one_start(config: Path, environment: dict[str, str]) -> float:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
    ):
        listening.bind(f"{folder}/notify")
        listening.settimeout(60)
        env = {**os.environ, **environment, "NOTIFY_SOCKET": f"{folder}/notify"}
        began = time.monotonic()
        command = python("edge_runtime.daemon", "--config", str(config))
        process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        try:
            while b"READY=1" not in listening.recv(4096):
                pass
            return time.monotonic() - began
        finally:
            process.terminate()
            process.wait()


def main() -> int:
    """Print the figures and, with --json, write them; 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--idle", type=float, default=120.0, metavar="SECONDS")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(devices=2, rounds=args.rounds, reference=False, workdir=Path(folder))
        with claim(options.workdir, keep=False) as site:
            simulation = Measured(options, site, options.workdir / "logs", Quiet())
            simulation.measure(args.rounds, args.idle)
            report = asyncio.run(simulation.run())
    assert report.ok, report.reasons
    figures = simulation.figures
    train_s = report.per_device[0].train_s_median or 0.0  # by the clock: on a loaded machine, more
    training = train_s * args.rounds
    figures["training_s_per_round"] = train_s
    figures["cpu_s_per_round_with_training"] = (
        figures["daemon_cpu_s_per_round"] + simulation.child_cpu / args.rounds
    )
    # Too little where others compete for the processor. The process's one start is in it.
    outside = max(0.0, simulation.child_cpu - training) / args.rounds
    figures["training_process_cpu_s_per_round_outside_training"] = outside
    figures["cpu_s_per_round_outside_training"] = figures["daemon_cpu_s_per_round"] + outside
    missed = [name for name, most in TARGETS.items() if figures[name] > most]
    for name in sorted(figures):
        most = TARGETS.get(name)
        goal = "" if most is None else f"  (at most {most:g}){' MISSED' if name in missed else ''}"
        print(f"{name.replace('_', ' '):52} {figures[name]:9.3f}{goal}")
    if args.json:
        facts = {"figures": figures, "targets": TARGETS, "rounds": args.rounds}
        facts |= {"machine": platform.platform(), "python": platform.python_version()}
        args.json.write_text(json.dumps(facts, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
