"""How much of the network chunks may take: a rate each way, and quiet hours. Pure.

Only chunks count. What else a device says is a few hundred bytes, and a coordinator that hears
nothing would think the device lost.
"""

import math
from dataclasses import dataclass, field

_NEVER = float("-inf")


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


@dataclass
class Traffic:
    """The limits of one device, and whether chunks may move at all."""

    up: Bucket = field(default_factory=lambda: Bucket(0))
    down: Bucket = field(default_factory=lambda: Bucket(0))
    quiet: str = ""  # why no chunk may move; empty: they may
