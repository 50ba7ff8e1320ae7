"""What systemd is told while the daemon runs: how it stands, in words, and that it gets on. I/O.

WATCHDOG=1 is withheld, so that systemd starts the daemon anew, when a device's machine has taken no
event for long, though a tick comes every second, or when a training that should have been ended
for standing still wasn't. A training process that hangs is no reason: the daemon ends it itself.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Final, Protocol

from qflare.host.logs import get_logger
from qflare.host.notify import notify, watchdog_seconds

LOOK_S: Final = 5.0  # how old a status line may be
STILL_S: Final = 60.0  # a machine that took no event for so long is stuck


class Doing(Protocol):
    """A device, as far as its standing goes."""

    @property
    def online(self) -> bool: ...
    @property
    def trouble(self) -> str: ...
    @property
    def doing(self) -> str: ...
    @property
    def turned(self) -> float: ...


class Work(Protocol):
    """The training, likewise."""

    @property
    def overdue(self) -> bool: ...
    @property
    def failure(self) -> BaseException | None: ...


class Standing:
    """Tells systemd about these devices."""

    def __init__(
        self,
        devices: Sequence[Doing],
        training: Work,
        tell: Callable[..., None] = notify,
        clock: Callable[[], float] = lambda: clock_gettime(CLOCK_BOOTTIME),
    ) -> None:
        self._devices, self._training, self._tell, self._clock = devices, training, tell, clock
        self._log = get_logger("standing")
        self._last = ""
        self._stuck = ""

    async def tell(self, every: float | None = None) -> None:
        """Until cancelled; raises what ended the training's queue."""
        every = min(every or watchdog_seconds() or LOOK_S, LOOK_S)
        while True:
            failure = self._training.failure
            if failure is not None:
                raise failure
            self.look()
            await asyncio.sleep(every)

    def look(self) -> None:
        """Say what is new, and feed the watchdog if there is progress."""
        stuck, words = self.stuck, self.words
        if stuck and stuck != self._stuck:
            self._log.error("no progress; systemd is asked for a new start", reason=stuck)
        self._stuck = stuck
        said = [] if stuck else ["WATCHDOG=1"]
        if words != self._last:
            self._last = words
            said.append(f"STATUS={words}")
        if said:
            self._tell(*said)

    @property
    def words(self) -> str:
        """One device in full; of many how many do what."""
        if len(self._devices) == 1:
            (device,) = self._devices
            away = f"offline: {device.trouble}" if device.trouble else "offline"
            return f"{device.doing}; {'online' if device.online else away}"
        online = sum(device.online for device in self._devices)
        doing = Counter(device.doing.partition(",")[0] for device in self._devices)
        parts = ", ".join(f"{n} {what}" for what, n in sorted(doing.items()))
        return f"{online} of {len(self._devices)} online; {parts}"

    @property
    def stuck(self) -> str:
        """Why the watchdog isn't fed; empty if it is."""
        now = self._clock()
        for device in self._devices:
            if now - device.turned > STILL_S:
                return f"a machine took no event for {now - device.turned:.0f} s"
        return "a training that stands still couldn't be ended" if self._training.overdue else ""
