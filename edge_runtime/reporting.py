"""When a device says how it is: soon after a change, and now and then; never often. Pure.

A report is about 4 kB, most of it the signature. At most one in SOON_S is 0.3 kB a minute; a device
on which nothing changes says one in EVERY_S, 65 bytes a minute.
"""

from dataclasses import replace
from typing import Final

from edge_runtime.state import State
from qflare.envelope import sign
from qflare.report import WORDS_MAX, DeviceReport, Health
from qflare.topics import Up

SOON_S: Final = 900.0
EVERY_S: Final = 3600.0


class Reporting:
    """The report of one device."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._health: Health | None = None
        self._said: tuple[float, tuple[object, ...]] | None = None  # when, and what it was like
        self._number = 0

    def take(self, health: Health) -> None:
        """This is how the device is now."""
        self._health = health

    def tick(self) -> None:
        """Say it if it is time."""
        state = self._state
        if self._health is None or not state.online:
            return
        health = self._with_error(self._health)
        if self._said is not None:
            at, standing = self._said
            wait = EVERY_S if health.standing == standing else SOON_S
            if state.now - at < wait:
                return
        self._number += 1
        self._said = state.now, health.standing
        settings = state.settings
        report = DeviceReport(settings.fleet, state.device, state.session, self._number, health)
        state.say(Up.REPORT, sign(report, settings.identity.key))

    def _with_error(self, health: Health) -> Health:
        if not self._state.last_error:
            return health
        at, says = self._state.last_error
        age = {"error_age_s": max(0, round(self._state.now - at))}
        figures = tuple(sorted((dict(health.figures) | age).items()))
        return replace(health, error=says[:WORDS_MAX], figures=figures)
