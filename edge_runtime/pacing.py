"""How fast training may go: it can be stopped, held up, limited in time, and kept from the core.

A pace only waits between steps. It never changes what is computed.
"""

import time
from collections.abc import Callable
from threading import Event
from typing import Final, Protocol

from qflare.faults import LocalFault

LOOK_EVERY_S: Final = 0.25  # how soon a training that is held up sees that it may go on
NAP_S: Final = 0.02  # shorter naps would cost more than they give


class Stopped(Exception):
    """Somebody asked for it; the half-trained weights are gone."""


class OutOfTime(LocalFault):
    """The work wasn't done within the time that it may take."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"training took longer than {seconds:g} s; raise training.max_seconds or training.duty,"
            " or give the device less data"
        )


class Pace(Protocol):
    """What a long computation asks between two steps."""

    def step(self) -> None:
        """Wait as long as wanted; raise Stopped or OutOfTime to end the computation."""
        ...


class Unpaced:
    """As fast as it goes."""

    def step(self) -> None:
        pass


class Pacer:
    """The pace of one training, from its first step on."""

    def __init__(
        self,
        stop: Event,
        hold: Event | None = None,
        *,
        max_seconds: float = 0.0,
        duty: float = 1.0,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stop when `stop` is set, wait while `hold` is set.

        `max_seconds` counts everything but being held up; 0 is no limit. `duty` (0…1] is the share
        of one core that computing may take: after a step on `threads` cores, the rest of the time
        is slept; 1 is no limit.
        """
        self._stop = stop
        self._hold = hold
        self._max_seconds = max_seconds
        # Seconds of sleep that a second of computing costs.
        self._rest = threads / duty - 1.0 if duty < 1 else 0.0
        self._clock = clock
        self._spent = self._owed = 0.0
        self._last: float | None = None  # when the last step began

    def step(self) -> None:
        now = self._clock()
        worked = 0.0 if self._last is None else now - self._last
        self._spent += worked
        self._owed += worked * self._rest
        if self._owed >= NAP_S:
            self._nap()
        while self._hold is not None and self._hold.is_set() and not self._stop.is_set():
            self._stop.wait(LOOK_EVERY_S)
        if self._stop.is_set():
            raise Stopped
        if self._max_seconds and self._spent > self._max_seconds:
            raise OutOfTime(self._max_seconds)
        self._last = self._clock()

    def _nap(self) -> None:
        """Sleep what is owed, or as much of it as there is time for."""
        began = self._clock()
        left = self._max_seconds - self._spent if self._max_seconds else self._owed
        self._stop.wait(max(0.0, min(self._owed, left + NAP_S)))
        slept = self._clock() - began
        self._owed = max(0.0, self._owed - slept)
        self._spent += slept
