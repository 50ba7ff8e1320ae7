"""Sources that other packages bring along: an entry point in the group `qflare.sources`.

To collect, the entry point is a function that takes the configured options and yields one mapping
of fields for each sample, for as long as there are any; it needs nothing of ours. To supply whole
examples, it takes the options and the model's contract and gives a `base.DataSource`.
"""

import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from edge_runtime.sources.drivers import Backoff, Status
from edge_runtime.sources.inbox import Inbox
from edge_runtime.sources.record import Chooser
from edge_runtime.sources.settings import DataSection
from qflare.faults import LocalFault, PeerFault

GROUP: Final = "qflare.sources"
_LONGEST_S: Final = 60.0


def load_plugin(name: str) -> Callable[..., Any]:
    """The function behind an entry point; LocalFault if there is none, or it can't be imported."""
    known = entry_points(group=GROUP)
    found = [point for point in known if point.name == name]
    if len(found) != 1:
        there = ", ".join(sorted(point.name for point in known)) or "none"
        problem = "is installed by several packages" if found else "is not installed"
        raise LocalFault(
            f"data.plugin.name: {name!r} {problem}; install its package beside qflare. "
            f"There are: {there}"
        )
    try:
        made = found[0].load()
    except Exception as error:
        raise LocalFault(
            f"data.plugin.name: {name!r} can't be imported: {type(error).__name__}: {error}"
        ) from None
    if not callable(made):
        raise LocalFault(f"data.plugin.name: {name!r} is no function; report it to its author")
    function: Callable[..., Any] = made
    return function


class Plugin:
    """A `drivers.Driver` around a generator of somebody else's: whatever it raises is reported."""

    def __init__(self, settings: DataSection) -> None:
        self._name, self._options = settings.plugin.name, dict(settings.plugin.options)
        self._make = load_plugin(self._name)
        self._chooser = Chooser(settings)
        self._samples = self._unreadable = self._ended = 0
        self.status = Status()

    def run(self, inbox: Inbox, stop: threading.Event) -> None:
        backoff = Backoff(_LONGEST_S)
        while not stop.is_set():
            try:
                self._say("reading", ok=True)
                for fields in self._make(self._options):
                    self._take(fields, inbox, backoff)
                    if stop.is_set():
                        return
                reason = "it ended"
            except Exception as error:  # somebody else's code may raise anything
                reason = f"{type(error).__name__}: {error}"
            self._ended += 1
            self._say(f"{self._name}: {reason}", ok=False)
            inbox.gap()
            backoff.wait(stop)

    def _take(self, fields: object, inbox: Inbox, backoff: Backoff) -> None:
        try:
            if not isinstance(fields, Mapping):
                raise LocalFault(f"it yields {type(fields).__name__}; a mapping is wanted")
            record = self._chooser.record(fields)
        except PeerFault as fault:
            self._unreadable += 1
            inbox.gap()
            self._say(f"{self._name}: {fault.detail}", ok=False)
            return
        self._samples += 1
        inbox.put(record)
        backoff.reset()
        self._say("reading", ok=True)

    def _say(self, state: str, ok: bool) -> None:
        counts = {"samples": self._samples, "unreadable": self._unreadable, "ended": self._ended}
        self.status = Status(state, ok, counts)
