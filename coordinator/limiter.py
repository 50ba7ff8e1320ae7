"""How often one device may say something: a token bucket for each kind of message. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from qflare.names import DeviceId


class Kind(StrEnum):
    """What is limited."""

    HELLO = "hello"
    OFFER = "offer"
    ASK = "ask"
    TELEMETRY = "telemetry"
    REPORT = "report"
    ENROL = "enrol"  # messages of one ticket
    ENROL_ALL = "enrol_all"  # of all tickets together
    ENROL_TOLD = "enrol_told"  # how often one is told that it asks too often
    GARBAGE = "garbage"  # refused messages: how many of them are worth a line in the log


@dataclass(frozen=True)
class Rate:
    """`burst` at once, then `per_second`."""

    burst: float
    per_second: float


RATES = {
    Kind.HELLO: Rate(20, 1.0),
    Kind.OFFER: Rate(60, 10.0),
    Kind.ASK: Rate(64, 16.0),
    Kind.TELEMETRY: Rate(60, 10.0),
    Kind.REPORT: Rate(8, 1 / 300),  # an honest one's says one in 900 s, and one at each start
    Kind.ENROL: Rate(12, 0.5),
    Kind.ENROL_ALL: Rate(400, 40.0),
    Kind.ENROL_TOLD: Rate(1, 0.05),
    Kind.GARBAGE: Rate(5, 0.1),
}
BUCKETS_MAX = 200_000


class Limiter:
    """The buckets of all devices; a device that never speaks has none."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[DeviceId | None, Kind], tuple[float, float]] = {}

    def allow(self, device: DeviceId | None, kind: Kind, now: float) -> bool:
        """Take a token, if there is one."""
        rate = RATES[kind]
        tokens, at = self._buckets.get((device, kind), (rate.burst, now))
        tokens = min(rate.burst, tokens + max(0.0, now - at) * rate.per_second)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.clear()
        self._buckets[device, kind] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1
