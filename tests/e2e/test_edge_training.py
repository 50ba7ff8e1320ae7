"""The daemon and its training process: crashes, hangs, stops, and what systemd is told."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from qflare.topics import All
from tests.e2e.conftest import RunningBroker, WithBroker
from tests.e2e.test_edge_process import (
    ROOT,
    Desk,
    count,
    desk,
    logged,
    slow_offer,
    until,
    write_device,
)
from tests.edge_lab import Lab

pytestmark = pytest.mark.slow
HEAVY = ("numpy", "ai_edge_litert", "tflite_runtime", "pandas")


class Systemd:
    """The other end of sd_notify(3)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self.path))
        self.lines: list[str] = []

    def said(self, word: str) -> bool:
        with suppress(BlockingIOError):
            while True:
                self.lines += self._socket.recv(8192).decode().splitlines()
        return any(word in line for line in self.lines)

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def device(
    config: Path, systemd: Systemd, **environ: str
) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """The daemon as systemd starts it."""
    command = [sys.executable, "-m", "edge_runtime.daemon", "--config", str(config)]
    env = os.environ | {"NOTIFY_SOCKET": str(systemd.path), "PYTHONOPTIMIZE": "2"} | environ
    with (config.parent / "stderr").open("ab") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stderr=errors, env=env)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await asyncio.to_thread(process.wait)


def child_of(process: "subprocess.Popen[bytes]") -> int | None:
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(tasks[0]) if tasks else None


def mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def reasons(config: Path) -> list[str]:
    return [str(line["reason"]) for line in logged(config) if line["event"] == "training failed"]


def add(config: Path, text: str) -> None:
    config.write_text(config.read_text() + text)


@asynccontextmanager
async def training(
    broker: RunningBroker, folder: Path, systemd: Systemd, more: str = "", **environ: str
) -> AsyncIterator[tuple[Desk, Path, "subprocess.Popen[bytes]"]]:
    """A device that is at a long training."""
    lab = Lab.with_zoo()
    config = write_device(folder, lab, broker)
    text = config.read_text().replace("[training]", "[training]\nduty = 0.1")
    config.write_text(text + more)
    async with desk(broker, lab) as it, device(config, systemd, **environ) as process:
        await until(lambda: systemd.said("READY=1"))
        it.to_all(All.OFFER, slow_offer(lab, 1, 300))
        await until(lambda: systemd.said("STATUS=training round 1, step "))
        yield it, config, process


def test_a_crash_costs_a_round_and_the_daemon_knows_no_arrays(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        systemd = Systemd(tmp_path)
        async with training(broker, tmp_path, systemd) as (it, config, process):
            child = child_of(process)
            assert child is not None
            assert "numpy" in mapped(child)
            assert not any(name in mapped(process.pid) for name in HEAVY)
            os.kill(child, signal.SIGKILL)
            await until(lambda: count(config, "training failed") == 1)
            assert "killed (SIGKILL); the memory may have run out" in reasons(config)[0]
            it.to_all(All.OFFER, slow_offer(it.lab, 2, 1))
            await until(lambda: it.updates)
            assert process.poll() is None
            assert not any(name in mapped(process.pid) for name in HEAVY)
            again = child_of(process)
            assert again not in (None, child)
            process.kill()
            await asyncio.to_thread(process.wait)
            await until(lambda: not Path(f"/proc/{again}").exists())
        systemd.close()

    with_broker(body)


def test_a_hung_trainer_costs_a_round_and_the_watchdog_is_fed(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        systemd = Systemd(tmp_path)
        more = "[process]\nhung_after_s = 15\n"  # a busy machine starts it in that
        async with training(broker, tmp_path, systemd, more, WATCHDOG_USEC="1000000") as at:
            it, config, process = at
            child = child_of(process)
            assert child is not None
            os.kill(child, signal.SIGSTOP)
            systemd.lines.clear()
            await until(lambda: count(config, "training failed") == 1)
            assert "did nothing for 15 s" in reasons(config)[0]
            assert systemd.said("WATCHDOG=1")
            it.to_all(All.OFFER, slow_offer(it.lab, 2, 1))
            await until(lambda: it.updates)
        systemd.close()

    with_broker(body)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_stop_while_training_ends_well_and_loses_nothing(
    with_broker: WithBroker, tmp_path: Path, frozen: bool
) -> None:
    async def body(broker: RunningBroker) -> None:
        systemd = Systemd(tmp_path)
        async with training(broker, tmp_path, systemd) as (it, config, process):
            child = child_of(process)
            assert child is not None
            if frozen:
                os.kill(child, signal.SIGSTOP)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
            assert systemd.said("STOPPING=1")
            assert not Path(f"/proc/{child}").exists()
            assert not count(config, "training failed")
            config.write_text(config.read_text().replace("duty = 0.1", "duty = 1.0"))
            async with device(config, systemd):
                await until(lambda: it.updates)
            assert count(config, "offer accepted") == 2
        systemd.close()

    with_broker(body)


def test_a_reload_takes_what_may_change_and_names_the_rest(
    with_broker: WithBroker, tmp_path: Path
) -> None:
    async def body(broker: RunningBroker) -> None:
        systemd = Systemd(tmp_path)
        async with training(broker, tmp_path, systemd) as (it, config, process):
            systemd.lines.clear()
            text = config.read_text().replace("duty = 0.1", "duty = 0.9")
            config.write_text(text.replace("chunk = 4096", "chunk = 8192"))
            process.send_signal(signal.SIGHUP)
            await until(lambda: count(config, "configuration read again"))
            assert systemd.said("RELOADING=1")
            assert systemd.said("MONOTONIC_USEC=")
            assert systemd.said("READY=1")
            (taken,) = (e for e in logged(config) if e["event"] == "configuration read again")
            assert taken["changed"] == "training.duty"
            (rest,) = (e for e in logged(config) if "new start" in str(e["event"]))
            assert rest["settings"] == "transfer.chunk"
            config.write_text("no TOML")
            process.send_signal(signal.SIGHUP)
            await until(lambda: count(config, "the configuration is wrong and was not taken"))
            assert process.poll() is None
            it.to_all(All.OFFER, slow_offer(it.lab, 2, 1))
            await until(lambda: it.updates)
        systemd.close()

    with_broker(body)
