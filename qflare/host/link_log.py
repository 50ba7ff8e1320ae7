"""Which of a link's ups and downs become lines of a log: few, however long and often it is away.

A device without a network tries six thousand times a day, and each line wears its SD card. So an
outage is told when it begins, when something else turns out to be in the way, and whenever the
number of attempts has doubled; its end is told if any of it was. Of outages that come thick and
fast, as on a mast that flaps, only some are told, each of them whole, and the others are counted.
Whoever reads the last line therefore knows how the link stands, save for what is younger than
`EVERY_S`.
"""

from dataclasses import dataclass
from typing import Any, Final

from qflare.host.link_types import Connected, Disconnected, Trouble

AT_ONCE: Final = 10  # outages that are told however soon they follow each other
EVERY_S: Final = 600.0  # how soon there may be another one


@dataclass(frozen=True, slots=True)
class Line:
    """What to log."""

    level: str
    event: str
    fields: dict[str, str | int | float]


class LinkLines:
    """The lines of one link."""

    def __init__(self) -> None:
        self.trouble = ""  # the last reason why there is no connection; empty while there is one
        self._attempts = 0  # of this outage, if there is one
        self._told = True  # this outage, or the wait for the first connection
        self._seen: set[Trouble] = set()
        self._untold = 0  # outages since the last line
        self._left = float(AT_ONCE)
        self._at: float | None = None

    def connected(self, event: Connected) -> Line | None:
        """What to say of a connection."""
        self.trouble = ""
        attempts, told = self._attempts, self._told
        self._attempts, self._told = 0, False
        self._seen.clear()
        if not told:
            self._untold += 1
            return None
        fields: dict[str, str | int | float] = {"protocol": event.protocol, "broker": event.url}
        if attempts > 1:
            fields["attempts"] = attempts
        return self._line("info", "connected", fields)

    def disconnected(self, event: Disconnected, now: float) -> Line | None:
        """What to say of an end, or of an attempt that failed; `now` in seconds of any clock."""
        self.trouble = event.reason
        self._attempts += 1
        doubled = self._attempts & (self._attempts - 1) == 0
        if doubled and not self._told:
            self._told = self._may_tell(now)
        if not self._told or not (doubled or event.trouble not in self._seen):
            return None
        self._seen.add(event.trouble)
        fields: dict[str, str | int | float] = {
            "reason": event.reason,
            "trouble": str(event.trouble),
            "retry_in_s": round(event.retry_in_s, 1),
            "attempt": self._attempts,
        }
        return self._line("error" if event.refused else "warning", "disconnected", fields)

    def _may_tell(self, now: float) -> bool:
        since = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._left = min(AT_ONCE, self._left + since / EVERY_S)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _line(self, level: str, event: str, fields: dict[str, str | int | float]) -> Line:
        if self._untold:
            fields["untold_outages"] = self._untold
            self._untold = 0
        return Line(level, event, fields)


def tell(log: Any, line: Line | None) -> None:
    """Log it with a structlog logger, if there is a line at all."""
    if line is not None:
        getattr(log, line.level)(line.event, **line.fields)
