"""One application's connection: HTTP/1.1 requests in, answers out, within bounds of size and time.

h11 parses; whatever it refuses is answered with an error and ends the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import h11

from edge_runtime.serving.api import Answer, Refused, error_answer

HEAD_MAX: Final = 16 * 1024  # bytes of a request's line and headers
IDLE_S: Final = 300.0  # between two requests of a connection
SMALL: Final = 64 * 1024  # bytes of a body
PART_S: Final = 1.0  # for a client to take the last answer and to close its side
PART_BYTES: Final = 4 * 1024 * 1024  # that it may still send meanwhile
_READ: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    method: str
    target: str
    kind: str  # Content-Type
    accept: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take."""

    body: int  # bytes
    seconds: float  # for sending it, and again for taking the answer


Handler = Callable[[Request], Awaitable[Answer]]


async def part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close so that the last answer arrives; raises OSError or TimeoutError for a client that
    doesn't take it.

    The kernel throws an answer away when a socket is closed with something unread in it.
    """
    try:
        async with asyncio.timeout(PART_S):
            await writer.drain()
            if not writer.is_closing():
                writer.write_eof()
            left = PART_BYTES
            while left > 0 and (data := await reader.read(_READ)):
                left -= len(data)
    finally:
        writer.transport.abort()


class Budget:
    """Bytes of bodies that all connections together may hold until they are answered.

    Small ones are free, so that nobody's large requests keep others' small ones out.
    """

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> int:
        """Take what a body of this size costs, and return that; raise Refused if it isn't there."""
        cost = size if size > SMALL else 0
        if cost > self._left:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too much is asked at once; try again")
        self._left -= cost
        return cost

    def give(self, cost: int) -> None:
        self._left += cost


class Connection:
    """Serves requests one after another until either side closes."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handle: Handler,
        limits: Limits,
        budget: Budget,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._handle, self._limits, self._budget = handle, limits, budget
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
        self._taken = 0
        self.idle = True
        self._closing = False

    async def serve(self) -> None:
        """Until the end of the connection, whatever ends it; raises nothing but cancellation."""
        try:
            while not self._closing and await self._one():
                self._http.start_next_cycle()
            self.idle = True  # what comes now needn't be waited for
            await part(self._reader, self._writer)
        except (OSError, TimeoutError, h11.ProtocolError, EOFError):
            self.abort()

    def close(self) -> None:
        """End after the answer that is being made; at once if there is none."""
        self._closing = True
        if self.idle:
            self.abort()

    def abort(self) -> None:
        """End now, whatever was to be said."""
        self._closing = True
        self._writer.transport.abort()

    async def _one(self) -> bool:
        """Serve one request; may there be another?"""
        try:
            first = await self._begin()
            if first is None:
                return False
            self.idle = False
            try:
                async with asyncio.timeout(self._limits.seconds):
                    request = await self._request(first)
                answer = await self._handle(request)
            finally:
                self._budget.give(self._taken)
                self._taken = 0
        except Refused as fault:
            answer = error_answer(fault)
        except TimeoutError:
            if self.idle:
                return False
            text = f"the request took longer than {self._limits.seconds:g} s; send it faster"
            answer = error_answer(Refused(HTTPStatus.REQUEST_TIMEOUT, text))
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            answer = error_answer(Refused(status, f"not HTTP/1.1 as wanted here: {error}"))
        # A body that wasn't read to its end can't be told from the next request.
        again = self._http.their_state is h11.DONE and not self._closing
        await self._send(answer, again)
        self.idle = True
        return again and self._http.our_state is h11.DONE

    async def _begin(self) -> h11.Request | None:
        """The head of the next request; None at the end of the connection."""
        wait = IDLE_S
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            async with asyncio.timeout(wait):
                data = await self._reader.read(_READ)
            if data:  # something has begun, and has to come to an end
                self.idle, wait = False, self._limits.seconds
            self._http.receive_data(data)

    async def _request(self, head: h11.Request) -> Request:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        declared = headers.get("content-length", "0")
        if "transfer-encoding" in headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length and no chunks")
        size = int(declared)  # h11 has seen to it that it is a number
        if size > self._limits.body:
            text = f"{size} bytes, at most {self._limits.body}; send fewer rows at a time"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        self._taken = self._budget.take(size)
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            self._writer.write(self._http.send(go_on) or b"")
        parts = []
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_READ))
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            else:
                raise EOFError
        return Request(
            head.method.decode("latin-1"),
            head.target.decode("latin-1"),
            headers.get("content-type", ""),
            headers.get("accept", ""),
            b"".join(parts),
        )

    async def _send(self, answer: Answer, again: bool) -> None:
        headers: list[tuple[str, str]] = [
            ("content-type", answer.kind),
            ("content-length", str(len(answer.body))),
            *answer.headers,
        ]
        if not again:
            headers.append(("connection", "close"))
        if answer.status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append(("retry-after", "1"))
        events: list[Any] = [
            h11.Response(
                status_code=answer.status,
                reason=answer.status.phrase.encode(),
                headers=[(k.encode(), v.encode()) for k, v in headers],
            ),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        ]
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        async with asyncio.timeout(self._limits.seconds):
            await self._writer.drain()
