"""What reads a sensor in the collector: a thread that puts samples into the inbox."""

import random
import threading
from dataclasses import dataclass, field
from typing import Protocol

from edge_runtime.sources.decoding import Decoder
from edge_runtime.sources.inbox import Inbox
from edge_runtime.sources.record import Chooser
from edge_runtime.sources.settings import DataSection
from qflare.faults import LocalFault, PeerFault


@dataclass(slots=True)
class Status:
    """How a driver is: `state` in words for a person, and what it counted."""

    state: str = "starting"
    ok: bool = False
    counts: dict[str, int] = field(default_factory=dict)


class Driver(Protocol):
    """Reads until `stop` is set. It heals by itself what may heal; LocalFault if nothing will."""

    status: Status

    def run(self, inbox: Inbox, stop: threading.Event) -> None: ...


class Intake:
    """From a message to a sample in the inbox; what is no sample is counted, and leaves a gap."""

    def __init__(self, decoder: Decoder, chooser: Chooser) -> None:
        self._decoder, self._chooser = decoder, chooser
        self.unreadable = 0
        self.last_fault = ""

    def take(self, message: bytes, inbox: Inbox) -> bool:
        """Whether it was a sample."""
        try:
            record = self._chooser.record(self._decoder.decode(message))
        except PeerFault as fault:
            self.unreadable += 1
            self.last_fault = fault.detail
            inbox.gap()
            return False
        inbox.put(record)
        return True


class Backoff:
    """Ever longer pauses between attempts, with jitter, that `stop` ends."""

    def __init__(self, longest_s: float, first_s: float = 0.25) -> None:
        self._first, self._longest = first_s, longest_s
        self._failures = 0
        self._random = random.SystemRandom()

    def reset(self) -> None:
        self._failures = 0

    def wait(self, stop: threading.Event) -> None:
        grown = min(self._longest, self._first * 2 ** min(self._failures, 20))
        self._failures += 1
        stop.wait(self._random.uniform(grown / 2, grown))


def make_driver(settings: DataSection) -> Driver:
    """The driver of a kind of source that is collected; LocalFault if its library is missing."""
    match settings.kind:
        case "serial":
            from edge_runtime.sources.serial_line import SerialLine

            return SerialLine(settings)
        case "mqtt":
            from edge_runtime.sources.mqtt import Topics

            return Topics(settings)
        case "plugin" if settings.plugin.mode == "collect":
            from edge_runtime.sources.plugin import Plugin

            return Plugin(settings)
    raise LocalFault(
        f"data.kind: samples of {settings.kind!r} lie in files already; nothing is to be collected"
    )
