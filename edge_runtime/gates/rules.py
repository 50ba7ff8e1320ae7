"""What each reading means for its gate: close, open or leave it; in words with numbers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeVar

from edge_runtime.gates import windows
from edge_runtime.gates.readings import (
    Disk,
    Gate,
    Heat,
    Load,
    Memory,
    Network,
    Power,
    Readings,
    Seen,
    Throttling,
    Time,
)
from edge_runtime.gates.settings import (
    Ceiling,
    DiskGate,
    Floor,
    GatesSection,
    LoadGate,
    MemoryGate,
    NetworkGate,
    PowerGate,
    Window,
)

HOT = Ceiling(75, 65)  # °C; a Raspberry Pi slows down from 80 on
NAMES_MIN = 100  # files that can still be made, below which a file system is full
EARLIEST = 1_767_225_600.0  # 2026-01-01: a clock that shows less has never been set
LATEST = 7_258_118_400.0  # 2200-01-01
_MIB = 2**20
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")  # whatever the locale

T = TypeVar("T")


class Wish(Enum):
    """What a reading alone asks for."""

    CLOSE = "close"
    STAY = "stay"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Finding:
    """`shows` is the reading in words, `wants` what would open the gate."""

    wish: Wish
    shows: str
    wants: str


@dataclass(frozen=True, slots=True)
class Weighed:
    """A gate's finding (None: it doesn't apply now) and what was wrong with its sensor."""

    finding: Finding | None = None
    trouble: str | None = None
    off: bool = False


def weigh(readings: Readings, settings: GatesSection, hot: Ceiling = HOT) -> dict[Gate, Weighed]:
    """Every gate's finding; `hot` are the board's limits, which settings may override."""
    s, r = settings, readings
    hot = s.temperature.celsius or hot
    return {
        Gate.HOLD: _one(r.hold, s.hold.enabled, _hold),
        Gate.POWER: _one(r.power, s.power.enabled, lambda v: _power(v, s.power)),
        Gate.TEMPERATURE: _one(
            r.temperature, s.temperature.enabled, lambda v: _temperature(v, hot)
        ),
        Gate.THROTTLING: _one(r.throttling, s.throttling.enabled, _throttling),
        Gate.LOAD: _one(r.load, s.load.enabled, lambda v: _load(v, s.load)),
        Gate.MEMORY: _one(r.memory, s.memory.enabled, lambda v: _memory(v, s.memory)),
        Gate.DISK: _one(r.disk, s.disk.enabled, lambda v: _disk(v, s.disk)),
        Gate.NETWORK: _one(r.network, s.network.enabled, lambda v: _network(v, s.network)),
        Gate.WINDOWS: _one(r.windows, bool(s.windows), lambda v: _windows(v, s.windows)),
        Gate.SAMPLES: _one(r.samples, s.samples.new > 0, lambda v: _samples(v, s.samples.new)),
    }


def _one(seen: Seen[T], on: bool, rule: Callable[[T], Finding | None]) -> Weighed:
    if not on:
        return Weighed(off=True)
    finding = None if seen.value is None else rule(seen.value)
    return Weighed(finding, seen.trouble)


def _hold(why: str) -> Finding:
    if not why:
        return Finding(Wish.OPEN, "nobody holds training", "")
    return Finding(Wish.CLOSE, f"held by {why}", "that to end")


def _power(power: Power, settings: PowerGate) -> Finding:
    level = "battery" if power.percent is None else f"battery at {_n(power.percent)} %"
    if not power.draining:
        return Finding(Wish.OPEN, f"on mains, {level}", "mains power")
    if settings.mains_only:
        return Finding(Wish.CLOSE, f"{level}, which drains", "mains power")
    if power.percent is None:
        return Finding(Wish.CLOSE, "a battery drains and doesn't say its level", "mains power")
    wish = _above(power.percent, settings.battery)
    return Finding(wish, level, f"{_n(settings.battery.opens)} % or mains power")


def _temperature(heat: Heat, hot: Ceiling) -> Finding:
    wish = _below(heat.celsius, hot)
    return Finding(wish, f"{heat.zone} at {_n(heat.celsius)} °C", f"{_n(hot.opens)} °C or less")


def _throttling(throttling: Throttling) -> Finding:
    if throttling.causes:
        return Finding(Wish.CLOSE, "; ".join(throttling.causes), "that to end")
    return Finding(Wish.OPEN, "not throttled", "no throttling")


def _load(load: Load, settings: LoadGate) -> Finding | None:
    found = list(_loads(load, settings))
    for wish in (Wish.CLOSE, Wish.STAY):
        for finding in found:
            if finding.wish is wish:
                return finding
    return found[0] if found else None


def _loads(load: Load, settings: LoadGate) -> Iterator[Finding]:
    for value, bound, shows, unit in (
        (load.cpu, settings.cpu, "other programs take {} of the processor", " %"),
        (load.memory_stall, settings.memory_stall, "programs wait for memory {} of the time", " %"),
        (load.io_stall, settings.io_stall, "programs wait for storage {} of the time", " %"),
        (load.queue, settings.queue, "{} other programs wait on each core", ""),
    ):
        if value is not None:
            yield Finding(
                _below(value, bound),
                shows.format(f"{_n(value)}{unit}"),
                f"{_n(bound.opens)}{unit} or less",
            )


def _memory(memory: Memory, settings: MemoryGate) -> Finding:
    free = memory.available / _MIB
    wants = f"{_n(settings.available_mib.opens)} MiB"
    return Finding(_above(free, settings.available_mib), f"{_n(free)} MiB of memory left", wants)


def _disk(disk: Disk, settings: DiskGate) -> Finding:
    free = disk.free / _MIB
    if disk.read_only:
        shows = "the state directory's file system is read-only"
        return Finding(Wish.CLOSE, shows, "it to be writable (look for errors: dmesg)")
    if disk.names is not None and disk.names < NAMES_MIN:
        return Finding(
            Wish.CLOSE, f"room for {disk.names} more files on disk", f"room for {NAMES_MIN}"
        )
    wants = f"{_n(settings.free_mib.opens)} MiB"
    return Finding(_above(free, settings.free_mib), f"{_n(free)} MiB of disk left", wants)


def _network(network: Network, settings: NetworkGate) -> Finding:
    if network.metered is not None and settings.metered == "wait":
        shows = f"{network.interface} is metered ({network.metered})"
        return Finding(Wish.CLOSE, shows, "a network without charges")
    metered = ", metered" if network.metered is not None else ""
    if settings.kbit is None or network.kbit is None:
        return Finding(Wish.OPEN, f"network by {network.interface}{metered}", "a network")
    return Finding(
        _above(network.kbit, settings.kbit),
        f"{network.interface}{metered} at {_n(network.kbit)} kbit/s",
        f"{_n(settings.kbit.opens)} kbit/s",
    )


def _windows(time: Time, wanted: tuple[Window, ...]) -> Finding:
    if not EARLIEST <= time.wall < LATEST:
        return Finding(Wish.CLOSE, "the clock has not been set", "the time, from a time server")
    if time.right is False:
        shows = f"the clock shows {_date(time, time.wall)} and isn't synchronised yet"
        return Finding(Wish.CLOSE, shows, "an answer from a time server")
    doubt = "" if time.right else " (by a clock that nobody vouches for)"
    inside, change = windows.until(wanted, time.zone, time.wall)
    when = "always" if change is None else f"until {_date(time, change)}"
    if inside:
        return Finding(Wish.OPEN, f"within the hours for training {when}{doubt}", "")
    opens = "the hours for training" if change is None else _date(time, change)
    now = _date(time, time.wall)
    return Finding(Wish.CLOSE, f"{now} is outside the hours for training{doubt}", opens)


def _samples(new: int, wanted: int) -> Finding:
    wish = Wish.OPEN if new >= wanted else Wish.CLOSE
    return Finding(wish, f"{new} new samples", f"{wanted}")


def _above(value: float, bound: Floor) -> Wish:
    value = _shown(value)
    if value < bound.closes:
        return Wish.CLOSE
    return Wish.OPEN if value >= bound.opens else Wish.STAY


def _below(value: float, bound: Ceiling) -> Wish:
    value = _shown(value)
    if value > bound.closes:
        return Wish.CLOSE
    return Wish.OPEN if value <= bound.opens else Wish.STAY


def _shown(value: float) -> float:
    """What is judged is what is shown: no "50 %, wants 50 % or less"."""
    return round(value, 1)


def _n(value: float) -> str:
    return f"{_shown(value):g}" if abs(value) < 1e5 else f"{value:.0f}"


def _date(time: Time, moment: float) -> str:
    shown = datetime.fromtimestamp(moment, time.zone)
    return f"{_WEEKDAYS[shown.weekday()]} {shown:%Y-%m-%d %H:%M}"
