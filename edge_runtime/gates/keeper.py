"""The gates of one device: sensors in front, the verdicts of before behind, and what changed."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.gates.bus import ask_metered
from edge_runtime.gates.clock import LocalZone, named_zone, read_right
from edge_runtime.gates.files import Unreadable
from edge_runtime.gates.judging import Line, Standing, Stood, Verdict, judge
from edge_runtime.gates.load import LoadSensor
from edge_runtime.gates.network import NetworkSensor
from edge_runtime.gates.power import read_power
from edge_runtime.gates.readings import Gate, Readings, Seen, Time, Told
from edge_runtime.gates.rules import HOT
from edge_runtime.gates.settings import Ceiling, GatesSection
from edge_runtime.gates.space import read_disk, read_hold, read_memory
from edge_runtime.gates.thermal import ThrottlingSensor, ask_firmware, read_heat

ROOT = Path("/")
_PAUSE_S = 1.0  # between the two looks of `describe`: a processor's load needs an interval


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator should learn once: a gate that moved, a sensor that fails or is mended.

    `level` is that of the log line: "debug", "info" or "warning".
    """

    level: str
    gate: Gate
    event: str
    says: str


@dataclass(frozen=True, slots=True)
class Look:
    """What `GateKeeper.look` found."""

    verdict: Verdict
    changes: tuple[Change, ...]


class GateKeeper:
    """Looks every `settings.every_seconds`; in between, `verdict` is that of the last look."""

    def __init__(
        self,
        settings: GatesSection,
        state_dir: Path,
        hot: Ceiling = HOT,
        zones: tuple[str, ...] = (),
        root: Path = ROOT,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`hot` are the board's limits in °C for its thermal zones of the types `zones`.

        Raises ConfigFault for a time zone that isn't known.
        """
        self._settings, self._state_dir, self._hot, self._root = settings, state_dir, hot, root
        self._zones = zones
        self._clock, self._wall = clock, wall
        ask = ask_firmware if settings.throttling.vcgencmd else None
        self._throttling = ThrottlingSensor(root, ask)
        self._load = LoadSensor(root)
        self._network = NetworkSensor(root, settings.network, ask_metered)
        self._local = LocalZone(root)
        zone = settings.timezone if settings.windows else None
        self._zone = named_zone(zone) if zone is not None else None
        self._looked: float | None = None
        self._seen_at = 0.0  # wall clock of the last look
        self.verdict = Verdict((), {})  # open until the first look
        self.readings = Readings()  # of the last look

    @property
    def due_in(self) -> float:
        """Seconds until the next look; 0 if it is due."""
        if self._looked is None:
            return 0.0
        return max(0.0, self._looked + self._settings.every_seconds - self._clock())

    def look(self, told: Told) -> Look:
        """Read every sensor and judge.

        Takes a few milliseconds as a rule, a quarter of a second if the message bus hangs, and two
        seconds at most if `vcgencmd` does; it may run in a thread of its own, one at a time.
        """
        now = self._clock()
        self._looked, self._seen_at = now, self._wall()
        readings = self._read(told, now) if self._settings.enabled else Readings()
        self.readings = readings
        before = {line.gate: line for line in self.verdict.lines}
        self.verdict = judge(readings, self._settings, self.verdict.state, now, self._hot)
        return Look(self.verdict, tuple(_changes(before, self.verdict.lines)))

    def describe(self) -> dict[str, Any]:
        """The last look as JSON knows it: for status, `qflare doctor` and the like.

        `gates` has one entry for each gate in a fixed order; `trouble` is there if a sensor fails,
        `for_seconds` if the gate applies.
        """
        return {
            "open": self.verdict.open,
            "why": self.verdict.why,
            "looked_at": round(self._seen_at, 1),
            "gates": [self._entry(line) for line in self.verdict.lines],
        }

    def _entry(self, line: Line) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "gate": str(line.gate),
            "standing": str(line.standing),
            "says": line.says,
        }
        stood: Stood | None = self.verdict.state.get(line.gate)
        if stood is not None and self._looked is not None:
            entry["for_seconds"] = round(max(0.0, self._looked - stood.since), 1)
        if line.trouble is not None:
            entry["trouble"] = line.trouble
        return entry

    def _read(self, told: Told, now: float) -> Readings:
        """What is switched off isn't read."""
        s, root = self._settings, self._root
        starting = s.samples.new > 0 and not told.training
        return Readings(
            hold=read_hold(_under(root, s.hold.file)) if s.hold.enabled else Seen(),
            power=read_power(root) if s.power.enabled else Seen(),
            temperature=(
                read_heat(root, s.temperature.ignore, self._zones)
                if s.temperature.enabled
                else Seen()
            ),
            throttling=self._throttling.read(now) if s.throttling.enabled else Seen(),
            load=self._load.read(now, told.children) if s.load.enabled else Seen(),
            memory=read_memory(root) if s.memory.enabled else Seen(),
            disk=read_disk(self._state_dir) if s.disk.enabled else Seen(),
            network=self._network.read(now, told.kbit) if s.network.enabled else Seen(),
            windows=self._time(told) if s.windows else Seen(),
            samples=Seen(told.new_samples if starting else None),
        )

    def _time(self, told: Told) -> Seen[Time]:
        try:
            zone = self._zone or self._local.read()
        except Unreadable as fault:
            return Seen(trouble=str(fault))
        right = told.clock_right
        return Seen(Time(self._wall(), zone, read_right(self._root) if right is None else right))


def describe(
    settings: GatesSection,
    state_dir: Path,
    hot: Ceiling = HOT,
    zones: tuple[str, ...] = (),
    root: Path = ROOT,
) -> dict[str, Any]:
    """Look now, without a daemon, and say how every gate would stand: see `GateKeeper.describe`.

    Takes a second, for the processor's load. Without a past, a reading between its two bounds
    counts as closed. What only a daemon knows (new samples, rate of transfers) doesn't apply.
    """
    keeper = GateKeeper(settings, state_dir, hot, zones, root)
    if settings.enabled and settings.load.enabled:
        keeper.look(Told())
        keeper.verdict = Verdict((), {})
        time.sleep(_PAUSE_S)
    keeper.look(Told())
    return keeper.describe()


def _changes(before: Mapping[Gate, Line], lines: tuple[Line, ...]) -> list[Change]:
    changes = []
    for line in lines:
        old = before.get(line.gate)
        was = old.standing if old is not None else None
        if line.standing is Standing.CLOSED and was is not Standing.CLOSED:
            changes.append(Change("info", line.gate, "gate closed", line.says))
        elif line.standing is not Standing.CLOSED and was is Standing.CLOSED:
            changes.append(Change("info", line.gate, "gate opened", line.says))
        elif line.standing is not was and Standing.ABSENT in (line.standing, was):
            changes.append(Change("debug", line.gate, f"gate {line.standing}", line.says))
        failed = old.trouble if old is not None else None
        if line.trouble is not None and failed is None:
            changes.append(Change("warning", line.gate, "sensor fails", line.trouble))
        elif line.trouble is None and failed is not None:
            changes.append(Change("info", line.gate, "sensor works again", line.says))
    return changes


def _under(root: Path, path: Path) -> Path:
    return root / os.fspath(path).lstrip("/")
