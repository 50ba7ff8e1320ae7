"""The gates' place in the daemon: look, pause or go on, keep chunks off a network that costs."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from edge_runtime import events as ev
from edge_runtime.config import EdgeConfig
from edge_runtime.device import Device
from edge_runtime.gates.clock import LocalZone, named_zone
from edge_runtime.gates.files import Unreadable
from edge_runtime.gates.judging import Standing
from edge_runtime.gates.keeper import GateKeeper, Look
from edge_runtime.gates.readings import Gate, Told
from edge_runtime.gates.rules import HOT
from edge_runtime.gates.settings import Ceiling
from edge_runtime.gates.windows import until
from edge_runtime.observing import EVERY_S, observe
from edge_runtime.sources.arrivals import NOTHING, Arrivals, Mark
from edge_runtime.training.service import Training
from qflare.host.boards import detect
from qflare.host.boards.facts import clock_is_set as kept_right
from qflare.host.logs import get_logger
from qflare.host.tls import clock_is_set

SOON_S: Final = 1.0  # how soon an update is noticed that used up the new samples


class Watch:
    """Looks for as long as the daemon runs. One set of gates holds for all of its devices."""

    def __init__(
        self,
        config: EdgeConfig,
        devices: Sequence[Device],
        training: Training,
        wall: Callable[[], float],
    ) -> None:
        """Raise ConfigFault for a time zone that isn't known."""
        self._devices, self._training, self._wall = devices, training, wall
        self._log = get_logger("gates")
        self._keeper = _keeper(config)
        self._config = config
        self._standing: list[Standing] = []
        self._observed = float("-inf")

    def configure(self, config: EdgeConfig) -> None:
        """Take a new configuration; what the gates said last holds on until they look again."""
        made = _keeper(config)
        made.verdict = self._keeper.verdict
        self._keeper, self._config = made, config

    async def look(self) -> None:
        """Look once, and do what follows from it."""
        pid = self._training.pid
        told = Told(
            training=any(device.at_work for device in self._devices),
            children=() if pid is None else (pid,),
            kbit=max((k for d in self._devices if (k := d.machine.kbit) is not None), default=None),
            clock_right=clock_right(),
        )
        marks = [(device.arrivals, trained_on(device)) for device in self._devices]
        found = await asyncio.to_thread(self._look, self._keeper, told, marks)
        for change in found.changes:
            getattr(self._log, change.level)(change.event, gate=str(change.gate), says=change.says)
        verdict = found.verdict
        costly = [r.says for r in verdict.reasons if r.gate is Gate.NETWORK]
        quiet = "; ".join([*costly, *self._quiet_hours()])
        for device in self._devices:
            if verdict.open:
                device.resume()
            else:
                device.hold(verdict.why)
            device.keep_quiet(quiet)

    async def _observe(self) -> None:
        """Have every device's report say how it is, after a gate moved or now and then."""
        standing = [line.standing for line in self._keeper.verdict.lines]
        now = time.monotonic()
        if standing == self._standing and now - self._observed < EVERY_S:
            return
        self._standing, self._observed = standing, now
        keeper, limit = self._keeper, self._training.settings.process.memory_mb
        for device in self._devices:
            health = await asyncio.to_thread(
                observe, keeper.verdict, keeper.readings, device.state_dir, limit, os.environ
            )
            device.feed(ev.Looked(health))

    async def run(self) -> None:
        """Look whenever it is time; ends only by being cancelled, or by a failure."""
        while True:
            await self._observe()
            made = self._made()
            while (due := self._keeper.due_in) > 0 and made == self._made():
                await asyncio.sleep(max(min(due, SOON_S), 0.05))
            await self.look()

    def _made(self) -> list[Mark]:
        """Changes with an update: what is new counts from there, before the next round begins."""
        wanted = self._config.gates.samples.new
        return [trained_on(device) for device in self._devices] if wanted else []

    def _look(self, keeper: GateKeeper, told: Told, marks: Sequence[tuple[Arrivals, Mark]]) -> Look:
        """In a thread: whoever has fewest new samples is who isn't ready."""
        if self._config.gates.samples.new and not told.training:
            new = [n for arrivals, mark in marks if (n := arrivals.since(mark)) is not None]
            told = replace(told, new_samples=min(new, default=None))
        return keeper.look(told)

    def _quiet_hours(self) -> list[str]:
        hours, name = self._config.transfer.quiet, self._config.gates.timezone
        if not hours:
            return []
        try:
            zone = named_zone(name) if name is not None else LocalZone(Path("/")).read()
        except Unreadable as fault:
            return [f"quiet hours are set, and the time zone can't be read: {fault}"]
        quiet, _ = until(hours, zone, self._wall())
        return ["quiet hours"] if quiet else []


def trained_on(device: Device) -> Mark:
    """What there was when the last update was made that counted, or may yet."""
    learned = device.machine.learned
    return NOTHING if learned is None else Mark.of(dict(learned.counters)) or NOTHING


def clock_right() -> bool | None:
    """False before any time that it can be, True if the kernel knows that it is kept right.

    A service's sandbox may not ask the kernel, and a clock with a battery is right without its
    knowing: then None, and systemd's file and the battery decide.
    """
    if not clock_is_set():
        return False
    return True if kept_right() else None


def _keeper(config: EdgeConfig) -> GateKeeper:
    board = detect()
    hot = HOT if board is None else Ceiling(board.thermal.hold, board.thermal.resume)
    zones = () if board is None else board.thermal.zones
    return GateKeeper(config.gates, config.device.state_dir, hot, zones)
