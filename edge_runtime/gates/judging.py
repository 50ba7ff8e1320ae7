"""May training start or go on? The gates' standing, from readings and from how they stood before.

Pure: the same readings, settings, past and time give the same verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from edge_runtime.gates.readings import Gate, Readings
from edge_runtime.gates.rules import HOT, Finding, Weighed, Wish, weigh
from edge_runtime.gates.settings import Ceiling, GatesSection

GRACE_S = 300.0  # how long a gate goes by what its sensor said last

# Gates that may flap at no cost to the board, and so have to stay open for a while.
_UNHURRIED = frozenset((Gate.LOAD, Gate.NETWORK))
# Gates whose sensor must not fail unheeded: training blindly could harm the board or its owner.
_STRICT = frozenset((Gate.HOLD, Gate.POWER, Gate.TEMPERATURE, Gate.DISK, Gate.WINDOWS))
_REMEDY = {gate: f"mend that, or set gates.{gate}.enabled = false" for gate in Gate}
_REMEDY[Gate.WINDOWS] = "mend that, or set gates.timezone"


class Standing(StrEnum):
    """How a gate stands."""

    OPEN = "open"
    CLOSED = "closed"
    ABSENT = "absent"  # nothing to judge by on this board, or at present
    OFF = "off"  # by configuration


@dataclass(frozen=True, slots=True)
class Stood:
    """A gate's past: open or not, since when, and since when its sensor fails (monotonic, s)."""

    open: bool
    since: float
    failing: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One gate for an operator: its standing, the reading or reason, its sensor's trouble."""

    gate: Gate
    standing: Standing
    says: str
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every gate's line in the order of `Gate`, and the state for the next judgement."""

    lines: tuple[Line, ...]
    state: Mapping[Gate, Stood]

    @property
    def reasons(self) -> tuple[Line, ...]:
        """The closed gates."""
        return tuple(line for line in self.lines if line.standing is Standing.CLOSED)

    @property
    def open(self) -> bool:
        """May training start or go on?"""
        return not self.reasons

    @property
    def why(self) -> str:
        """The reasons in one line; empty if there are none."""
        return "; ".join(line.says for line in self.reasons)


def judge(
    readings: Readings,
    settings: GatesSection,
    past: Mapping[Gate, Stood],
    now: float,
    hot: Ceiling = HOT,
) -> Verdict:
    """Judge one look at `now` (monotonic seconds); `hot` are the board's limits in °C.

    Without a past a gate opens only for a reading that would open a closed one.
    """
    if not settings.enabled:
        return Verdict(
            tuple(Line(gate, Standing.OFF, "gates.enabled = false") for gate in Gate), {}
        )
    lines, state = [], {}
    for gate, weighed in weigh(readings, settings, hot).items():
        line, stood = _judge(gate, weighed, settings, past.get(gate), now)
        lines.append(line)
        if stood is not None:
            state[gate] = stood
    return Verdict(tuple(lines), state)


def _judge(
    gate: Gate, weighed: Weighed, settings: GatesSection, past: Stood | None, now: float
) -> tuple[Line, Stood | None]:
    if weighed.off:
        return Line(gate, Standing.OFF, "not asked for"), None
    finding, trouble = weighed.finding, weighed.trouble
    if finding is None and trouble is None:
        if past is None or past.open or now - past.since >= settings.rest_seconds:
            return Line(gate, Standing.ABSENT, "does not apply"), None
        finding = Finding(Wish.OPEN, "can't be seen any more", "")
    if finding is not None:
        stood = _stands(gate, finding.wish, settings, past, now)
        says = _says(finding, stood, settings.rest_seconds, now)
    else:
        stood = _blind(gate, settings, past, now)
        says = "not judged" if stood.open else f"{trouble}; {_REMEDY[gate]}"
    return Line(gate, Standing.OPEN if stood.open else Standing.CLOSED, says, trouble), stood


def _stands(
    gate: Gate, wish: Wish, settings: GatesSection, past: Stood | None, now: float
) -> Stood:
    if past is None:
        return Stood(wish is Wish.OPEN, now)
    held = now - past.since
    if past.open and wish is Wish.CLOSE:
        if gate not in _UNHURRIED or held >= settings.settle_seconds:
            return Stood(False, now)
    elif not past.open and wish is Wish.OPEN and held >= settings.rest_seconds:
        return Stood(True, now)
    return Stood(past.open, past.since)


def _blind(gate: Gate, settings: GatesSection, past: Stood | None, now: float) -> Stood:
    """With a sensor that is there and can't be read: as before for a while, then decide."""
    if past is None:
        return Stood(gate not in _STRICT, now, now)
    since = now if past.failing is None else past.failing
    blind = Wish.CLOSE if gate in _STRICT else Wish.OPEN
    wish = Wish.STAY if now - since < GRACE_S else blind
    stood = _stands(gate, wish, settings, past, now)
    return Stood(stood.open, stood.since, since)


def _says(finding: Finding, stood: Stood, rest: float, now: float) -> str:
    if stood.open:
        return finding.shows
    if finding.wish is not Wish.OPEN:
        return f"{finding.shows}, wants {finding.wants}"
    left = max(1.0, rest - (now - stood.since))
    return f"{finding.shows}, waits {left:.0f} s more to be sure"
