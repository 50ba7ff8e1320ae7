"""The laptop's end of a session: connects, asks, waits for the answer. I/O through a `Line`."""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from edge_runtime.provision.dialogue import (
    ANSWERS,
    PROTOCOL,
    Done,
    Echoed,
    Failed,
    Hello,
    Progress,
    Request,
)
from edge_runtime.provision.link import Link, Lost, Opened, Received, Times
from edge_runtime.provision.ports import Line
from edge_runtime.provision.problems import Code, Problem
from edge_runtime.provision.secrecy import Session, begin
from qflare.faults import PeerFault
from qflare.messages import parse_any

_SLICE: Final = 0.05  # seconds of waiting for the line
_HELLO: Final = 20.0


class LinkLost(Exception):
    """The link is gone; a new one may succeed. `restarted`: the device is there."""

    def __init__(self, restarted: bool) -> None:
        super().__init__("the link is lost")
        self.restarted = restarted


class Talk:
    """One link and the session on it."""

    def __init__(self, line: Line, baud: int, patience: float = 15.0) -> None:
        self._line = line
        self.link = Link(from_device=False, times=Times.at(baud, patience))
        self._messages: list[bytes] = []
        self._opened = False
        self._session: Session | None = None

    def open(self, seconds: float) -> bool:
        """Try for so long to get a link; whether there is one."""
        self.link.open(secrets.randbits(32), time.monotonic())
        self._opened = False
        until = time.monotonic() + seconds
        while not self._opened and time.monotonic() < until:
            try:
                self._pump()
            except LinkLost:
                return False
        return self._opened

    def hello(self) -> tuple[Hello, bytes]:
        """What the device says of itself, and its very bytes.

        Raises Problem(VERSION) for a device that speaks otherwise, LinkLost.
        """
        message = self._receive(_HELLO)
        try:
            hello = Hello.parse(message)
        except PeerFault as fault:
            raise Problem(Code.VERSION, f"the board says hello in another way ({fault})") from None
        if hello.protocol != PROTOCOL:
            raise Problem(Code.VERSION, f"the board runs QFLARE {hello.version}")
        return hello, message

    def begin(self, hello: Hello, raw: bytes) -> None:
        """Begin a session: from here on nobody else reads it."""
        try:
            message, self._session = begin(hello.key, raw)
        except PeerFault as fault:
            raise Problem(Code.VERSION, f"the board's key can't be used ({fault})") from None
        self.link.send(message.to_bytes())

    def ask(self, request: Request, tell: Callable[[str], None]) -> Done | Failed | Echoed:
        """Ask for something and wait for its end; `tell` hears of progress. Raises LinkLost."""
        if self._session is None:
            raise LinkLost(restarted=False)
        self.link.send(self._session.seal(request.to_bytes()))
        while True:
            message = self._receive(None)
            try:
                answer: Any = parse_any(self._session.open(message), *ANSWERS)
            except PeerFault:
                self.link.close()
                raise LinkLost(restarted=False) from None
            if not isinstance(answer, Progress):
                found: Done | Failed | Echoed = answer
                return found
            tell(answer.text)

    def drain(self, seconds: float = 1.0) -> None:
        """Let what was sent arrive, and acknowledge again what the device may say again."""
        until = time.monotonic() + seconds
        with suppress(LinkLost):
            while time.monotonic() < until:
                self._pump()

    def _receive(self, seconds: float | None) -> bytes:
        until = None if seconds is None else time.monotonic() + seconds
        while not self._messages:
            if until is not None and time.monotonic() > until:
                raise LinkLost(restarted=False)
            self._pump()
        return self._messages.pop(0)

    def _pump(self) -> None:
        now = time.monotonic()
        events = self.link.tick(now)
        if out := self.link.take(now):
            self._line.write(out)
        data = self._line.read(_SLICE)
        now = time.monotonic()
        if data:
            events += self.link.feed(data, now)
        if out := self.link.take(now):
            self._line.write(out)
        for event in events:
            match event:
                case Opened():
                    self._opened = True
                    self._messages.clear()
                    self._session = None
                case Received(message=message):
                    self._messages.append(message)
                case Lost(restarted=restarted):
                    raise LinkLost(restarted)
