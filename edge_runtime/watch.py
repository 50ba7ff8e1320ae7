"""The gates' place in the daemon: look, pause or go on, keep chunks off a network that costs."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_runtime.config import EdgeConfig
from edge_runtime.device import Device
from edge_runtime.gates.clock import LocalZone, named_zone
from edge_runtime.gates.files import Unreadable
from edge_runtime.gates.keeper import GateKeeper
from edge_runtime.gates.readings import Gate, Told
from edge_runtime.gates.rules import HOT
from edge_runtime.gates.settings import Ceiling
from edge_runtime.gates.windows import until
from edge_runtime.phases import Phase
from edge_runtime.training.service import Training
from qflare.host.boards import detect
from qflare.host.logs import get_logger


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

    def configure(self, config: EdgeConfig) -> None:
        """Take a new configuration; what the gates said last holds on until they look again."""
        made = _keeper(config)
        made.verdict = self._keeper.verdict
        self._keeper, self._config = made, config

    async def look(self) -> None:
        """Look once, and do what follows from it."""
        pid = self._training.pid
        told = Told(
            training=any(device.phase is Phase.TRAINING for device in self._devices),
            children=() if pid is None else (pid,),
        )
        found = await asyncio.to_thread(self._keeper.look, told)
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

    async def run(self) -> None:
        """Look whenever it is time; ends only by being cancelled, or by a failure."""
        while True:
            await asyncio.sleep(max(self._keeper.due_in, 0.05))
            await self.look()

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


def _keeper(config: EdgeConfig) -> GateKeeper:
    board = detect()
    hot = HOT if board is None else Ceiling(board.thermal.hold, board.thermal.resume)
    zones = () if board is None else board.thermal.zones
    return GateKeeper(config.gates, config.device.state_dir, hot, zones)
