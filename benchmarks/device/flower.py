"""Flower's device side: SuperNode, its SuperExec, and a ClientApp process in each round.

As Flower starts them by default (`--isolation subprocess`), on loopback without TLS, as ours; its
telemetry and its look for newer versions are off, evaluation is left out.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.device.job import DEVICES, RATE, Job
from benchmarks.device.proxy import Proxy
from benchmarks.device.sampling import Sampler, at_rest, cpu, megabytes, of_rounds, of_starts, read
from qflare.faults import LocalFault

VERSION = "1.42.0"
LITERT = "2.3.0"
REQUIREMENTS = (f"flwr=={VERSION}", f"ai-edge-litert=={LITERT}")
APP = Path(__file__).parent / "flower_app"
STARTS = 3
_SETTLED_S = 5.0  # until SuperNode and SuperExec have started
_WITHIN_S = 60.0  # a start, and a round, at most


def environment_of(folder: Path) -> Path:
    """The interpreter of a virtual environment with REQUIREMENTS in `folder`, made if need be."""
    python = folder / "bin" / "python"
    if (folder / ".made").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([*pip, *REQUIREMENTS], check=True)
    except subprocess.CalledProcessError:
        raise LocalFault(
            f"{' and '.join(REQUIREMENTS)} can't be installed; give an interpreter that has them "
            "with --python-flower"
        ) from None
    (folder / ".made").touch()
    return python


def version_of(python: Path) -> str:
    """Of flwr in this environment; LocalFault if it has none, or no LiteRT."""
    asking = "import ai_edge_litert; from importlib.metadata import version; print(version('flwr'))"
    try:
        done = subprocess.run(
            [str(python), "-c", asking], capture_output=True, text=True, check=False
        )
    except OSError as fault:
        raise LocalFault(f"--python-flower: {fault}") from None
    if done.returncode:
        raise LocalFault(f"--python-flower: {python} has no {' or '.join(REQUIREMENTS)}")
    return done.stdout.strip()


class _Fleet:
    """The processes, all in one folder."""

    def __init__(self, python: Path, job: Job, folder: Path) -> None:
        self._bin, self._job, self._folder = python.parent, job, folder
        self._environment = os.environ | {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
        }
        self.port = _free_port()
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\n'
            f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    @contextmanager
    def process(self, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """One process and whatever it starts, until the block ends."""
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(self._bin / command[0]), *command[1:]],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its session: what it left behind
            process.wait()

    def superlink(self) -> Sequence[str]:
        return (
            "flower-superlink",
            "--insecure",
            f"--port={self.port}",
            "--disable-runtime-dependency-installation",
        )

    def supernode(self, number: int, port: int) -> Sequence[str]:
        """The device with this number, which finds the SuperLink on `port`."""
        job = self._job
        config = (
            f'model="{job.model}" data="{job.data[number - 1]}" '
            f"batch={job.batch} epochs={job.epochs} number={number}"
        )
        return (
            "flower-supernode",
            "--insecure",
            f"--superlink=127.0.0.1:{port}",
            f"--port={_free_port()}",
            f"--node-config={config}",
        )

    def run(self, rounds: int) -> Path:
        """Start the job; return the file that is there when it has ended."""
        result = self._folder / "result.json"
        config = f'weights="{self._job.weights}" result="{result}" rounds={rounds} rate={RATE}'
        done = subprocess.run(
            [str(self._bin / "flwr"), "run", str(APP), "here", "--run-config", config],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalFault(f"flwr run failed: {done.stdout[-500:]}{done.stderr[-1000:]}")
        return result


async def _until(there: Callable[[], bool], within_s: float, what: str) -> None:
    ends = time.monotonic() + within_s
    while not there():
        if time.monotonic() > ends:
            raise LocalFault(f"Flower: {what} didn't come within {within_s:.0f} s")
        await asyncio.sleep(0.02)


async def _measure(
    python: Path, job: Job, folder: Path, rounds: int, idle_s: float
) -> dict[str, float]:
    fleet = _Fleet(python, job, folder)
    with fleet.process("superlink", *fleet.superlink()):
        await _until(lambda: _listens(fleet.port), _WITHIN_S, "the SuperLink")
        starts = [await _start(fleet) for _ in range(STARTS)]
        proxy = Proxy("127.0.0.1", fleet.port)
        with (
            fleet.process("node-1", *fleet.supernode(1, await proxy.start())) as node,
            fleet.process("node-2", *fleet.supernode(2, fleet.port)),
        ):
            await asyncio.sleep(_SETTLED_S)
            sampler = Sampler(node.pid)
            sampler.start()
            before = read(node.pid, proxy)
            result = await asyncio.to_thread(fleet.run, rounds)
            await _until(result.exists, _WITHIN_S * rounds, "the end of the run")
            used = read(node.pid, proxy) - before
            sampler.stop()
            said = json.loads(result.read_text())
            mine = _mine(said["rounds"])
            await asyncio.sleep(_SETTLED_S)
            figures = of_rounds(used, rounds, sum(mine) / rounds)
            figures["seconds_per_round"] = (said["rounds"][-1]["at"] - said["began"]) / rounds
            figures |= megabytes("training", sampler.peaks)
            figures |= await at_rest(node.pid, proxy, idle_s)
            figures |= of_starts(starts)
        proxy.close()
    if len(mine) != rounds:
        raise LocalFault(f"Flower: the measured node took part in {len(mine)} of {rounds} rounds")
    return figures


async def _start(fleet: _Fleet) -> tuple[float, float]:
    """Seconds from exec to the SuperLink's first answer: by the clock, and of processor time."""
    proxy = Proxy("127.0.0.1", fleet.port)
    port = await proxy.start()
    began = time.monotonic()
    with fleet.process("start", *fleet.supernode(1, port)) as node:
        await _until(lambda: proxy.answered is not None, _WITHIN_S, "the SuperLink's answer")
        used = cpu(node.pid)  # its SuperExec, which isn't waited for, isn't in it
    proxy.close()
    return (proxy.answered or 0.0) - began, used


def _mine(rounds: list[dict[str, list[dict[str, float]]]]) -> list[float]:
    """Processor time of the training steps of the measured node, by round."""
    return [said["cpu"] for it in rounds for said in it["replies"] if said["number"] == 1]


def _listens(port: int) -> bool:
    with socket.socket() as it:
        return it.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        port: int = it.getsockname()[1]
        return port


def measure(python: Path, job: Job, folder: Path, rounds: int, idle_s: float) -> dict[str, float]:
    """The figures of one device; LocalFault if Flower doesn't do as it should."""
    assert len(job.data) == DEVICES
    return asyncio.run(_measure(python, job, folder, rounds, idle_s))
