"""Samples between whoever reads a sensor and whoever writes them: bounded, and lossy when full."""

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

from edge_runtime.sources.record import Record


@dataclass(frozen=True, slots=True)
class Arrived:
    """A sample and when it came, in seconds: monotonic, and by the wall clock."""

    record: Record
    mono: float
    wall: float


class Inbox:
    """A sensor doesn't wait: what comes while it is full is dropped, counted, and leaves a gap."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Arrived] = deque()
        self._news = threading.Condition()
        self._gap = False
        self.taken = 0
        self.dropped = 0

    def put(self, record: Record) -> None:
        """Queue a sample, or drop it; never waits."""
        with self._news:
            if len(self._waiting) >= self._limit:
                self.dropped += 1
                self._gap = True
                return
            if self._gap:
                record, self._gap = replace(record, broken=True), False
            self.taken += 1
            self._waiting.append(Arrived(record, time.monotonic(), time.time()))
            if len(self._waiting) == self._limit // 2:
                self._news.notify()

    def gap(self) -> None:
        """Samples were lost before they got here: the next one doesn't follow the last."""
        with self._news:
            self._gap = True

    def take(self, within_s: float) -> list[Arrived]:
        """All that waits, after `within_s` or as soon as half of the room is taken.

        Nobody is woken for a single sample: that would cost more than all the rest.
        """
        with self._news:
            if len(self._waiting) < self._limit // 2 and within_s > 0:
                self._news.wait(within_s)
            found = list(self._waiting)
            self._waiting.clear()
        return found
