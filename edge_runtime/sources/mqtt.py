"""Samples from topics of a broker nearby; one message is one sample."""

import asyncio
import hashlib
import os
import threading
from pathlib import Path
from typing import Final

from edge_runtime.sources.decoding import MESSAGE_MAX, decoder
from edge_runtime.sources.drivers import Intake, Status
from edge_runtime.sources.inbox import Inbox
from edge_runtime.sources.record import Chooser
from edge_runtime.sources.settings import DataSection
from qflare.host.link import Connected, Disconnected, Event, Link, LinkConfig, Message

_STOP_S: Final = 0.5  # how often the thread looks whether it is to stop


class Topics:
    """A `drivers.Driver`."""

    def __init__(self, settings: DataSection) -> None:
        mqtt = settings.mqtt
        self._intake = Intake(decoder(settings), Chooser(settings))
        self._config = LinkConfig(
            url=mqtt.url,
            username=mqtt.username,
            password_file=mqtt.password_file,
            client_id=_client_id(settings),
            protocol=mqtt.protocol,
            session_expiry_s=0,  # what came while nobody listened has no time of its own
            max_packet=2 * MESSAGE_MAX,
        )
        self._topics = mqtt.topics
        self._inbox: Inbox | None = None
        self._messages = self._oversize = self._retained = 0
        self.status = Status()

    def run(self, inbox: Inbox, stop: threading.Event) -> None:
        self._inbox = inbox
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        link = Link(self._config, subscriptions=self._topics)
        running = asyncio.create_task(link.run(self._on_event))
        while not stop.is_set() and not running.done():
            await asyncio.wait({running}, timeout=_STOP_S)
        link.close()
        await running

    def _on_event(self, event: Event) -> None:
        match event:
            case Connected():
                self._say("connected", ok=True)
            case Disconnected(reason=reason):
                if self._inbox:
                    self._inbox.gap()
                self._say(f"{self._config.url}: {reason}", ok=False)
            case Message(payload=payload, retained=retained):
                self._messages += 1
                if retained:
                    self._retained += 1
                elif len(payload) > MESSAGE_MAX:
                    self._oversize += 1
                elif self._inbox and self._intake.take(payload, self._inbox):
                    self._say("connected", ok=True)
                else:
                    self._say(f"a message is no sample: {self._intake.last_fault}", ok=False)

    def _say(self, state: str, ok: bool) -> None:
        counts = {
            "messages": self._messages,
            "retained": self._retained,
            "oversize": self._oversize,
            "unreadable": self._intake.unreadable,
        }
        self.status = Status(state, ok, counts)


def _client_id(settings: DataSection) -> str:
    """The same at each start, and another one for each collector of a broker."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = os.uname().nodename
    mark = f"{machine}\0{settings.path}\0{settings.mqtt.topics}"
    return f"qflare-collect-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
