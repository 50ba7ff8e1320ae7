"""Hours of the day as intervals of real time, whatever the clock does in spring and autumn.

A window is open from the moment at which its start is first shown to the moment at which its end
is first shown, so it opens at most once a day. A time that the clock skips counts as the moment of
the skip; a window that lies within the skipped hour is empty on that day.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from edge_runtime.gates.settings import DAYS, Window

_AHEAD = 8  # days: the same weekday of the next week is among them
_WEEK_S = 7 * 86_400


def until(windows: Iterable[Window], zone: tzinfo, now: float) -> tuple[bool, float | None]:
    """Is one of the windows open at `now`, and when does that change next?

    `now` and the answer are seconds since 1970. The change is None if there is none within a week.
    """
    spans = sorted(_spans(windows, zone, now))
    end = now
    for start, stop in spans:  # windows that touch or overlap are one
        if start <= end < stop:
            end = stop
    if end > now:
        return True, end if end - now < _WEEK_S else None
    return False, min((start for start, _ in spans if start > now), default=None)


def _spans(windows: Iterable[Window], zone: tzinfo, now: float) -> Iterator[tuple[float, float]]:
    today = datetime.fromtimestamp(now, zone).date()
    for window in windows:
        for ahead in range(-2, _AHEAD + 1):
            day = today + timedelta(ahead)
            if DAYS[day.weekday()] in window.days:
                start, stop = span(window, day, zone)
                if start < stop and now < stop:
                    yield start, stop


def span(window: Window, day: date, zone: tzinfo) -> tuple[float, float]:
    """When the window that starts on `day` opens and closes; the same twice if it's empty."""
    start, stop = _shown(window.start), _shown(window.end)
    if stop <= start:
        stop += timedelta(days=1)
    midnight = datetime.combine(day, time())
    return _first(midnight + start, zone), _first(midnight + stop, zone)


def _shown(clock: str) -> timedelta:
    hours, minutes = clock.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes))


def _first(shown: datetime, zone: tzinfo) -> float:
    """The first moment at which clocks in `zone` show `shown` or, where they skip it, later."""
    late = shown.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if late.astimezone(zone).replace(tzinfo=None) == shown:
        return late.timestamp()
    # PEP 495: in a gap, fold=0 counts by the offset of before and fold=1 by that of after it.
    low = shown.replace(tzinfo=zone, fold=1).timestamp()
    high = late.timestamp()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) < shown:
            low = middle
        else:
            high = middle
    return high
