"""What goes on, with the seconds since the start; for emulation is slow, and silence worries."""

import sys
import time

_BEGAN = time.monotonic()


def say(words: str) -> None:
    """A line on standard error, at once."""
    print(f"board {time.monotonic() - _BEGAN:4.0f} s: {words}", file=sys.stderr, flush=True)
