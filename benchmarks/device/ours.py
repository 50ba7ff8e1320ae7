"""QFLARE's device side: `qflare-edge` and its training process, in real rounds and then at rest."""

import asyncio
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.device.job import DEVICES
from benchmarks.device.proxy import Proxy
from benchmarks.device.sampling import (
    Sampler,
    at_rest,
    cpu,
    megabytes,
    of_rounds,
    of_starts,
    read,
    tree,
)
from benchmarks.quiet import Quiet
from qflare.faults import LocalFault
from qflare.host.supervise import ChildSpec, Supervisor
from qflare.simulate.monitor import Monitor
from qflare.simulate.options import Options
from qflare.simulate.run import ENVIRONMENT, Simulation, python
from qflare.simulate.workdir import claim

STARTS = 3
# As on a device: gates that look, and slots for applications. Only what the rest of this machine
# does closes no gate; and the training process goes early, so that the rest begins soon.
_BUSY = ("CPU", "MEMORY_STALL", "IO_STALL", "QUEUE")
_SETTINGS = {
    "PYTHONOPTIMIZE": "2",
    "QFLARE_EDGE__PROCESS__IDLE_S": "3",
    "QFLARE_EDGE__GATES__ENABLED": "true",
    "QFLARE_EDGE__SERVING__ENABLED": "true",
    **{f"QFLARE_EDGE__GATES__LOAD__{what}__CLOSES": "1e9" for what in _BUSY},
    **{f"QFLARE_EDGE__GATES__LOAD__{what}__OPENS": "1e8" for what in _BUSY},
}


class Measured(Simulation):
    """A simulation whose devices are daemons of their own; the first is measured."""

    def measure(self, rounds: int, idle_s: float, training_cpu_s: float) -> None:
        self.rounds, self.idle_s, self.training_cpu_s = rounds, idle_s, training_cpu_s
        self.figures: dict[str, float] = {}

    async def start_fleet(self, supervisor: Supervisor, devices: Sequence[Path]) -> None:
        url = urlsplit(
            next(
                line.split('"')[1]
                for line in devices[0].read_text().splitlines()
                if line.startswith("url")
            )
        )
        self.proxy = Proxy(url.hostname or "", url.port or 1883)
        through = f"mqtt://127.0.0.1:{await self.proxy.start()}"
        environment = {**ENVIRONMENT, **_SETTINGS}
        measured = environment | {"QFLARE_EDGE__BROKER__URL": through}
        starts = [await asyncio.to_thread(_start, devices[0], measured) for _ in range(STARTS)]
        self.figures |= of_starts(starts)
        # The measured one last: no round begins without it, so its meters miss none.
        for number, path in reversed(list(enumerate(devices, 1))):
            own = measured if number == 1 else environment
            command = python("edge_runtime.daemon", "--config", str(path))
            await supervisor.start(ChildSpec(f"device-{number}", command, own))
        pid = self.pid("device-1")
        assert pid is not None
        self.started = read(pid, self.proxy)
        self.sampler = Sampler(pid)
        self.sampler.start()

    async def _watch(self, supervisor: Supervisor, monitor: Monitor) -> None:
        await super()._watch(supervisor, monitor)
        pid = self.sampler.pid
        if self.pid("device-1") != pid:
            raise LocalFault("the measured daemon was started anew on the way; measure again")
        used = read(pid, self.proxy) - self.started
        self.sampler.stop()
        while len(tree(pid)) > 1:
            await asyncio.sleep(0.1)
        self.figures |= of_rounds(used, self.rounds, self.training_cpu_s)
        self.figures |= megabytes("training", self.sampler.peaks)
        self.figures |= await at_rest(pid, self.proxy, self.idle_s)
        self.proxy.close()


def _start(config: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds from exec to READY=1: by the clock, and of processor time."""
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
            return time.monotonic() - began, cpu(process.pid)
        finally:
            process.terminate()
            process.wait()


def measure(folder: Path, rounds: int, idle_s: float, training_cpu_s: float) -> dict[str, float]:
    """The figures of one device in `rounds` rounds, and of `idle_s` seconds right after them."""
    options = Options(devices=DEVICES, rounds=rounds, reference=False, workdir=folder)
    with claim(options.workdir, keep=False) as site:
        simulation = Measured(options, site, options.workdir / "logs", Quiet())
        simulation.measure(rounds, idle_s, training_cpu_s)
        report = asyncio.run(simulation.run())
    assert report.ok, report.reasons
    return simulation.figures
