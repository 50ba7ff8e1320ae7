"""A board in the field, with the real broker and coordinator behind it.

The laptop's command and qflare-provisiond are real processes, on a worn cable.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from qflare.host.broker import BrokerKind
from qflare.host.broker.mosquitto import find
from tests.e2e.conftest import run_broker
from tests.enrol_kit import COMMAND, Home, new_world
from tests.provision_kit import Cable, make_root

TICKETS = 3
PASSPHRASE = "correct horse battery"
SETTINGS = '[data]\nkind = "npz"\npath = "/data/samples.npz"\n'
Process = asyncio.subprocess.Process


@dataclass
class Field:
    """A fleet's home, a board's directory tree, a technician's folder, and a cable."""

    home: Home
    root: Path
    folder: Path
    cable: Cable
    started: list[Process] = dataclass_field(default_factory=list)

    @property
    def tickets(self) -> Path:
        return self.home.path / "tickets"

    async def operator(self, *words: str) -> Any:
        return await asyncio.to_thread(self.home.qflare, *words)

    @asynccontextmanager
    async def coordinator(self) -> AsyncIterator[Process]:
        with (self.home.path / "log").open("ab") as log:
            words = ("coordinator.daemon", "--config", str(self.home.config_file))
            process = await self._start(*words, stderr=log)
        try:
            yield process
        finally:
            await end(process)

    async def board(self) -> Process:
        """Switch the board on."""
        root = self.root
        words = ["edge_runtime.provision.daemon", "--tty", self.cable.device, "--root", str(root)]
        for option, where in (
            ("--dir", "etc/qflare"),
            ("--state", "var/lib/qflare-provision"),
            ("--data", "var/lib/qflare"),
        ):
            words += [option, str(root / where)]
        with (root / "log").open("ab") as log:
            return await self._start(*words, stderr=log)

    async def laptop(self, *options: str) -> Process:
        """The technician runs the one command, and has compared the words."""
        (self.folder / "wifi.txt").write_text(PASSPHRASE + "\n")
        (self.folder / "data.toml").write_text(SETTINGS)
        words = ["provision", "serial", "--port", self.cable.laptop]
        words += ["--ticket", str(self.tickets), "--wifi", "site 7", "--wifi-password-file"]
        words += [str(self.folder / "wifi.txt"), "--settings", str(self.folder / "data.toml")]
        words += ["--labels", str(self.folder / "labels"), "--jobs", str(self.folder / "jobs")]
        words += ["--no-training", "--baud", "115200", "--json", *options]
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *words, stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdin is not None
        process.stdin.write(b"y\n" * 40)
        self.started.append(process)
        return process

    async def run_daemon(self) -> None:
        """Start the device's daemon, until the coordinator has seen its certificate."""
        config = self.root / "etc/qflare/edge.toml"
        with (self.root / "daemon.log").open("ab") as log:
            daemon = await self._start("edge_runtime.daemon", "--config", str(config), stderr=log)
        try:
            async with asyncio.timeout(60):
                while [device["state"] for device in await self.devices()] != ["confirmed"]:
                    assert daemon.returncode is None, self.logs()
        finally:
            await end(daemon)

    async def _start(self, module: str, *words: str, stderr: Any) -> Process:
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *words),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "PATH": path},
        )
        self.started.append(process)
        return process

    def logs(self) -> str:
        """What the board has to say."""
        return "".join(path.read_text() for path in sorted(self.root.glob("*log")))

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in (self.folder / "jobs").glob("*.json")]

    async def devices(self) -> list[dict[str, Any]]:
        """What the coordinator has enrolled."""
        found: list[dict[str, Any]] = await self.operator("enrol", "list")
        return found


async def result_of(laptop: Process, seconds: float = 150.0) -> tuple[int, Any, str]:
    """Exit code, the record that was printed, and what the technician read."""
    async with asyncio.timeout(seconds):
        out, err = await laptop.communicate()
    assert laptop.returncode is not None
    return laptop.returncode, json.loads(out) if out.strip() else None, err.decode()


async def end(process: Process) -> None:
    """As a power cut does it."""
    if process.returncode is None:
        process.kill()
    await process.wait()


@asynccontextmanager
async def field(folder: Path, **cable: Any) -> AsyncIterator[Field]:
    """A broker, an operator who has made tickets, and a board that is off."""
    kind = BrokerKind.MOSQUITTO if find() else BrokerKind.NATS
    folder.mkdir(parents=True, exist_ok=True)
    async with run_broker(kind, folder / "b", enrolment=True) as broker:
        home = Home(folder / "co", new_world())
        home.write(broker.plan, broker.credentials["coordinator"])
        root = make_root(folder / "board")
        (root / "dev").mkdir()
        (root / "dev/tty1").touch()  # the board's own screen
        (root / "run/systemd/system").mkdir(parents=True)
        (root / "bin").mkdir()
        for name in ("systemctl", "nmcli"):  # the board's, not this machine's: they note and agree
            (root / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {root}/commands\n')
            (root / "bin" / name).chmod(0o755)
        here = Field(home, root, folder, Cable(**cable))
        try:
            async with here.coordinator():
                out = ("--out", str(here.tickets), "--board", "rpi4")
                await here.operator("token", "new", "--count", str(TICKETS), *out)
            yield here
        finally:
            for process in here.started:
                await end(process)
            here.cable.close()


def screen(root: Path) -> str:
    """What the board's own screen shows last."""
    return os.fsdecode((root / "dev/tty1").read_bytes()).strip().splitlines()[-1]
