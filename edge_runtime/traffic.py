"""How much of the network chunks may take, and what they reach of it. Pure.

Only chunks count. What else a device says is a few hundred bytes, and a coordinator that hears
nothing would think the device lost.
"""

import math
from collections import deque
from dataclasses import dataclass, field

_NEVER = float("-inf")
LATELY_S = 600.0  # a rate that was measured longer ago says nothing
LEAST = 32 * 1024  # bytes; the time of less is mostly the way there and back
_PIECES = 32


class Bucket:
    """A token bucket that may go into debt by one piece: a piece larger than a second's worth
    goes out whole, and the next waits until it is paid for."""

    def __init__(self, rate: float) -> None:
        """`rate` in bytes per second; 0 is no limit."""
        self._rate = rate or math.inf
        self._free_at = _NEVER

    def take(self, size: int, now: float) -> bool:
        """May `size` bytes go now? If so they are counted."""
        if now < self._free_at:
            return False
        self._free_at = max(self._free_at, now - 1.0) + size / self._rate
        return True


class Meter:
    """What transfers reached lately: pieces that were asked for, each from the question on.

    While several are on their way, the time counts once.
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[float, int, float]] = deque(maxlen=_PIECES)
        self._until = _NEVER

    def add(self, size: int, asked: float, now: float) -> None:
        """`size` bytes that were asked for at `asked` came."""
        self._pieces.append((now, size, max(0.0, now - max(asked, self._until))))
        self._until = now

    def kbit(self, now: float) -> float | None:
        """Kilobits a second; None if too little came lately to tell."""
        lately = [piece for piece in self._pieces if now - piece[0] <= LATELY_S]
        size, busy = sum(p[1] for p in lately), sum(p[2] for p in lately)
        return size * 8 / 1000 / busy if size >= LEAST and busy > 0 else None


@dataclass
class Traffic:
    """The limits of one device, and whether chunks may move at all."""

    up: Bucket = field(default_factory=lambda: Bucket(0))
    down: Bucket = field(default_factory=lambda: Bucket(0))
    meter: Meter = field(default_factory=Meter)
    quiet: str = ""  # why no chunk may move; empty: they may
