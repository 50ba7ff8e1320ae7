"""When samples were taken, in microseconds since 1970, without jumps that aren't theirs. Pure.

A board has often no clock of its own: it is years off until the network says what time it is. And
what a sensor sends arrives in bursts. So time runs on by the monotonic clock or by the sensor's,
and is set anew, with a mark that a recording ends there, only where it has to be.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from edge_runtime.sources.settings import DataSection

JUMP_S: Final = 2.0  # the wall clock was set: by that much at least
_LATE: Final = 0.02  # share of an arrival's deviation from its rate that is taken over
_UNITS: Final = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 1e-3, "iso": 1_000_000.0}
_TIME_MAX: Final = 2**62
_SINCE_1970: Final = 10**9 * 1_000_000  # µs: of a sender that knows the date, it is after 2001
_TO_2200: Final = 7_258_118_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """`us` since 1970; `broken` if time doesn't run on from the sample before."""

    us: int
    broken: bool = False


class Clock(Protocol):
    """Gives the time of each sample; `said` is what its sender says, `mono` and `wall` seconds."""

    def at(self, said: float | None, mono: float, wall: float) -> Moment: ...


class Arrival:
    """The time of arrival, evened out if samples have a rate."""

    def __init__(self, rate_hz: float) -> None:
        self._period = 1 / rate_hz if rate_hz else 0.0
        self._patience = max(0.5, 20 * self._period)
        self._offset: float | None = None
        self._last = 0.0  # on the monotonic clock, evened out
        self._us = -_TIME_MAX

    def at(self, said: float | None, mono: float, wall: float) -> Moment:  # noqa: ARG002
        broken = False
        if self._offset is None or abs(wall - mono - self._offset) > JUMP_S:
            broken = self._offset is not None
            self._offset, self._last = wall - mono, mono
        elif not self._period:
            self._last = mono
        else:
            expected = self._last + self._period
            late = mono - expected
            if abs(late) > self._patience:
                self._last, broken = mono, True
            else:
                self._last = expected + _LATE * late
        us = round((self._last + self._offset) * 1e6)
        if us <= self._us and not broken:
            us = self._us + 1  # two in one microsecond stay in order
        self._us = us
        return Moment(us, broken)


class Sender:
    """The sender's own clock: a date, or a counter that began at some time and may wrap."""

    def __init__(self, unit: str, wraps_bits: int) -> None:
        self._unit = _UNITS[unit]
        self._wrap = 2**wraps_bits if wraps_bits else 0
        self._turns = 0
        self._before: float | None = None
        self._offset: int | None = None
        self._dated = False
        self._us = -_TIME_MAX
        self._set = 0.0  # the wall clock's seconds at the monotonic clock's 0

    def at(self, said: float | None, mono: float, wall: float) -> Moment:
        if said is None or not abs(said) * self._unit < _TIME_MAX:
            self._us = round(wall * 1e6)
            return Moment(self._us, broken=True)
        before, self._before = self._before, said
        broken = False
        if before is not None and said < before:
            # A counter that fell by more than half its range has come round.
            if before < self._wrap and before - said > self._wrap / 2:
                self._turns += 1
            else:
                broken, self._offset, self._turns = True, None, 0
        raw = round((said + self._turns * self._wrap) * self._unit)
        dated = _SINCE_1970 < raw < _TO_2200
        was_set = not dated and abs(wall - mono - self._set) > JUMP_S
        if self._offset is None or dated != self._dated or was_set:
            broken |= before is not None
            self._offset, self._dated = 0 if dated else round(wall * 1e6) - raw, dated
            self._set = wall - mono
        us, last = raw + self._offset, self._us
        self._us = us
        return Moment(us, broken or us < last)


def clock(settings: DataSection) -> Clock:
    """The clock that a configuration asks for."""
    if settings.time.field is None:
        return Arrival(settings.rate_hz)
    return Sender(settings.time.unit, settings.time.wraps_bits)
