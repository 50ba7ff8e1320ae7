"""The device's end of one serial line: a tty, the link on it, and the session on that."""

import asyncio
import os
import secrets
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from edge_runtime.provision.desk import Desk
from edge_runtime.provision.dialogue import REQUESTS, Begin, Finish, Progress, Request
from edge_runtime.provision.link import Link, Lost, Opened, Received, Times
from edge_runtime.provision.memory import Memory
from edge_runtime.provision.secrecy import Session, accept
from qflare.faults import LocalFault, PeerFault
from qflare.host.logs import get_logger
from qflare.messages import parse_any

log = get_logger(__name__)

_PATIENCE: Final = 60.0  # seconds of silence after which a laptop is taken to be gone
_BEACON: Final = 10.0  # seconds between two lines that say that we are here
_REOPEN: Final = 1.0
_READ: Final = 4096
_REQUESTS_MAX: Final = 8


class Terminal:
    """Serves whoever is at the other end of `path`, one laptop after the other.

    `others` says whether enrolment ended elsewhere; `beacon` is the line for people that is sent
    now and then while nobody has a link.
    """

    def __init__(self, path: Path, baud: int, desk: Desk, memory: Memory, beacon: str) -> None:
        self.path, self._baud = path, baud
        self._desk, self._memory, self._beacon = desk, memory, beacon
        self._link = Link(from_device=True, times=Times.at(baud, _PATIENCE))
        self._hello = b""
        self._session: Session | None = None
        self._parted = False
        self._requests: asyncio.Queue[Request] = asyncio.Queue(_REQUESTS_MAX)
        self._worker: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._out = bytearray()

    @property
    def connected(self) -> bool:
        """Has a laptop a link?"""
        return self._link.is_open

    @property
    def parted(self) -> bool:
        """Was the laptop told that all is done, or is there none? One may come back to hear it."""
        return self._parted or not self._link.is_open

    @property
    def settled(self) -> bool:
        """Has all that was said arrived, or nobody to arrive at?"""
        return not self._link.is_open or (self._link.idle and not self._out)

    async def serve(self) -> None:
        """Until cancelled; a tty that goes away is opened again when it is back."""
        complained = False
        try:
            while True:
                try:
                    descriptor, before = _open(self.path, self._baud)
                except (OSError, termios.error) as error:
                    if not complained:
                        log.warning("no terminal", path=self.path, why=str(error))
                    complained = True
                    await asyncio.sleep(_REOPEN)
                    continue
                complained = False
                try:
                    await self._serve_open(descriptor)
                finally:
                    with suppress(termios.error):
                        termios.tcsetattr(descriptor, termios.TCSANOW, before)
                    os.close(descriptor)
                await asyncio.sleep(_REOPEN)
        finally:
            self._end_session()

    async def _serve_open(self, descriptor: int) -> None:
        """Until the tty is hung up."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()

        def readable() -> None:
            try:
                data = os.read(descriptor, _READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                for event in self._link.feed(data, loop.time()):
                    self._on_event(event)
            else:
                gone.set()
            self._wake.set()

        loop.add_reader(descriptor, readable)
        beacon_at = loop.time()
        try:
            while not gone.is_set():
                self._wake.clear()
                now = loop.time()
                for event in self._link.tick(now):
                    self._on_event(event)
                if not self._link.is_open and now >= beacon_at:
                    beacon_at = now + _BEACON
                    self._out += f"\r\n{self._beacon}\r\n".encode()
                self._out += self._link.take(now)
                await self._write(descriptor)
                due = self._link.due()
                until = beacon_at if due is None else due
                with suppress(TimeoutError):
                    left = 0.02 if self._out else max(until - loop.time(), 0.01)
                    await asyncio.wait_for(self._wake.wait(), left)
        finally:
            loop.remove_reader(descriptor)
            self._out.clear()

    async def _write(self, descriptor: int) -> None:
        with suppress(BlockingIOError):
            if self._out:
                try:
                    sent = os.write(descriptor, self._out)
                except BlockingIOError:
                    raise
                except OSError:
                    sent = len(self._out)  # hung up; the reader notices
                del self._out[:sent]

    def _on_event(self, event: Opened | Received | Lost) -> None:
        match event:
            case Opened():
                self._end_session()
                self._hello = self._desk.hello(secrets.token_bytes(16)).to_bytes()
                self._link.send(self._hello)
            case Received(message=message):
                try:
                    self._on_message(message)
                except PeerFault as fault:
                    log.warning("refused on the line", why=str(fault))
                    self._end_session()
                    self._link.close()
            case Lost():
                self._end_session()

    def _on_message(self, message: bytes) -> None:
        """Raises PeerFault for what isn't the next thing to be said."""
        if self._session is None:
            self._session = accept(Begin.parse(message), self._memory.key, self._hello)
            self._requests = asyncio.Queue(_REQUESTS_MAX)
            self._worker = asyncio.create_task(self._work(self._session, self._requests))
            return
        request = parse_any(self._session.open(message), *REQUESTS)
        with suppress(asyncio.QueueFull):  # a laptop asks for one thing at a time
            self._requests.put_nowait(request)

    async def _work(self, session: Session, requests: "asyncio.Queue[Request]") -> None:
        while True:
            request = await requests.get()
            answer = await self._desk.handle(request, self._saying(session))
            self._say(session, answer)
            self._parted = isinstance(request, Finish)

    def _saying(self, session: Session) -> Callable[[str], None]:
        def say(words: str) -> None:
            self._say(session, Progress(words[:500]))

        return say

    def _say(self, session: Session, message: Any) -> None:
        if session is not self._session:
            return  # whoever asked has gone
        with suppress(LocalFault):  # too much waits to be sent; the laptop will ask again
            self._link.send(session.seal(message.to_bytes()))
        self._wake.set()

    def _end_session(self) -> None:
        self._session, self._parted = None, False
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None


def _open(path: Path, baud: int) -> tuple[int, list[Any]]:
    """The tty in raw mode at this speed, and what it was set to before."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        before = termios.tcgetattr(descriptor)
        tty.setraw(descriptor, termios.TCSANOW)
        attributes = termios.tcgetattr(descriptor)
        attributes[2] = (attributes[2] | termios.CLOCAL | termios.CREAD) & ~termios.CRTSCTS
        attributes[4] = attributes[5] = getattr(termios, f"B{baud}")
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, before
