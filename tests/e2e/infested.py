"""A real simulation in which one device isn't started, because somebody else speaks for it."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quiet import Quiet
from qflare.host.supervise import Supervisor
from qflare.simulate.monitor import Monitor
from qflare.simulate.options import Options
from qflare.simulate.provision import Site
from qflare.simulate.report.model import Report
from qflare.simulate.run import Simulation
from qflare.simulate.workdir import claim

from .mallory import Mallory

Scenario = Callable[[Mallory, "Infested"], Awaitable[None]]


class Infested(Simulation):
    """A simulation in which the last device isn't started: Mallory has it."""

    def __init__(self, options: Options, site: Site, logs: Path, scenario: Scenario) -> None:
        super().__init__(options, site, logs, Quiet())
        self.mallory: Mallory
        self.monitor: Monitor | None = None
        self._scenario = scenario
        self._attack: asyncio.Task[None] | None = None

    async def _start_daemons(
        self, supervisor: Supervisor, enclave: Path, coordinator: Path, devices: Sequence[Path]
    ) -> None:
        *honest, hostile = devices
        await super()._start_daemons(supervisor, enclave, coordinator, honest)
        self.mallory = Mallory(hostile.parent, honest[0].parent, self._refusals)
        self._attack = asyncio.create_task(self._run_scenario())

    async def _run_scenario(self) -> None:
        await self.mallory.connect()
        await self._scenario(self.mallory, self)
        await self.mallory.disconnect()

    def _refusals(self) -> dict[str, int]:
        return dict(self.monitor.metric("refusals")) if self.monitor else {}

    def _show(self, monitor: Monitor, *more: Any, **others: Any) -> None:
        self.monitor = monitor
        super()._show(monitor, *more, **others)
        if self._attack and self._attack.done():
            self._attack.result()

    async def run(self) -> Report:
        try:
            report = await super().run()
            assert self._attack
            await self._attack
            return report
        finally:
            if self._attack:
                self._attack.cancel()


def run(folder: Path, scenario: Scenario, **options: Any) -> tuple[Report, Infested]:
    """Run a fleet whose last device is Mallory's; the state is kept to be looked at."""
    given = Options(workers=2, reference=False, seed=3, workdir=folder, keep=True, **options)
    with claim(folder, keep=True) as site:
        simulation = Infested(given, site, folder / "logs", scenario)
        return asyncio.run(simulation.run()), simulation


def admitted(folder: Path) -> dict[int, set[str]]:
    """The devices that were counted, by round, as the coordinator wrote it down."""
    (path,) = (folder / "state" / "coordinator" / "state").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT round, device FROM updates WHERE status = 'admitted'")
        out: dict[int, set[str]] = {}
        for round_, device in rows:
            out.setdefault(round_, set()).add(device)
        return out


def nobody_was_hurt(report: Report, folder: Path) -> None:
    """No process ended, and no honest party lost its connection."""
    assert report.ok, report.reasons
    assert report.restarts == ()
    logs = {path.stem: path.read_text() for path in (folder / "logs").glob("*.log")}
    assert logs.keys() >= {"broker", "coordinator", "enclave", "fleet-1", "fleet-2"}
    assert logs["coordinator"].count('"event":"connected"') == 1
    connected = (logs["fleet-1"] + logs["fleet-2"]).count('"event":"connected"')
    assert connected == report.devices - 1
    for name in ("coordinator", "enclave", "fleet-1", "fleet-2"):
        assert "Traceback" not in logs[name], logs[name][-3000:]
