"""The pace of a job, which also tells how far it is."""

import time
from collections.abc import Callable
from typing import Final

from edge_runtime.pacing import Pace

SAY_EVERY_S: Final = 1.0


class ToldPace:
    """Passes on another pace, counts the steps of each stage, and says so once a second at most."""

    def __init__(
        self,
        pace: Pace,
        say: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` is given the stage and the steps of it that were begun."""
        self._pace, self._say, self._clock = pace, say, clock
        self._stage, self._steps, self._said = "", 0, 0.0

    def stage(self, name: str) -> None:
        """Another stage begins; it is said at once."""
        self._stage, self._steps = name, 0
        self._tell()

    def step(self) -> None:
        self._pace.step()
        self._steps += 1
        if self._clock() - self._said >= SAY_EVERY_S:
            self._tell()

    def _tell(self) -> None:
        self._say(self._stage, self._steps)
        self._said = self._clock()
