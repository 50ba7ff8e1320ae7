"""One sample on its way from a sensor to the store; what of it is wanted, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, SupportsFloat

from edge_runtime.sources.settings import Channel, DataSection
from qflare.faults import PeerFault, Reason

LABEL_MAX: Final = 200  # characters of a class's name
FIELD_MAX: Final = 64  # characters of a number

Fields = Mapping[str, Any]  # numbers, text or None; of somebody else's, hence anything


@dataclass(frozen=True, slots=True)
class Record:
    """One sample: `values` of the channels, then of numeric labels, and the name of its class.

    `time` is what its sender says, in the unit of the configuration, or None. `label` is "" if it
    has none. Before a `broken` one, some were lost.
    """

    values: tuple[float, ...]
    time: float | None = None
    label: str = ""
    broken: bool = False


class Chooser:
    """Takes what the configuration names out of a message's fields."""

    def __init__(self, settings: DataSection) -> None:
        self._channels = tuple((c.source, c.factor, c.offset) for c in settings.channels)
        label = settings.label
        self._numbers = label_numbers(settings)
        self._class = None if self._numbers or label.origin != "field" else label.fields[0]
        self._time, self._iso = settings.time.field, settings.time.unit == "iso"

    def record(self, fields: Fields) -> Record:
        """Raise PeerFault for a field that is missing or no number."""
        values = [number(fields, name) * factor + off for name, factor, off in self._channels]
        values += [number(fields, name) for name in self._numbers]
        time = None
        if self._time is not None:
            time = iso_seconds(fields, self._time) if self._iso else number(fields, self._time)
        label = "" if self._class is None else text(fields, self._class)
        return Record(tuple(values), time, label)


def stored_names(settings: DataSection) -> tuple[str, ...]:
    """What the values of a stored sample are called: the channels, then numeric labels."""
    return (*(c.name for c in settings.channels), *label_numbers(settings))


def label_numbers(settings: DataSection) -> tuple[str, ...]:
    """The numeric labels that each sample brings along."""
    label = settings.label
    return label.fields if label.origin == "field" and label.numbers else ()


def channel_of(settings: DataSection, name: str) -> Channel:
    """The channel of this name, or a plain one."""
    return next((c for c in settings.channels if c.name == name), Channel(name))


def number(fields: Fields, name: str) -> float:
    """A finite or infinite number, NaN where the field is empty; PeerFault for anything else."""
    value: object = fields.get(name, _ABSENT)
    if value is None or (isinstance(value, str) and not value.strip()):
        return float("nan")  # a sensor with nothing to say; the quality gates count it
    if value is _ABSENT:
        raise PeerFault(Reason.MALFORMED, f"there is no {name}")
    if not isinstance(value, str | SupportsFloat):
        raise PeerFault(Reason.BAD_VALUE, f"{name} is {type(value).__name__}, and no number")
    try:
        if isinstance(value, str) and len(value) > FIELD_MAX:
            raise ValueError
        return float(value)
    except (ValueError, TypeError, OverflowError):
        raise PeerFault(Reason.BAD_VALUE, f"{name} is no number: {value!r:.60}") from None


def text(fields: Fields, name: str) -> str:
    """A label: text, or a whole number as text; "" for none."""
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise PeerFault(Reason.BAD_VALUE, f"{name} is {type(value).__name__}, and no label")
    found = str(value).strip()
    if len(found) > LABEL_MAX:
        raise PeerFault(Reason.TOO_LARGE, f"{name} has {len(found)} characters")
    return found


def iso_seconds(fields: Fields, name: str) -> float:
    """Seconds since 1970 of ISO 8601 text; UTC where it names no zone."""
    from datetime import UTC, datetime

    value = fields.get(name)
    if not isinstance(value, str) or len(value) > FIELD_MAX:
        raise PeerFault(Reason.MALFORMED, f"{name} is no time")
    try:
        moment = datetime.fromisoformat(value.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise PeerFault(Reason.BAD_VALUE, f"{name} is no time: {value[:40]!r}") from None


_ABSENT: Final = object()
