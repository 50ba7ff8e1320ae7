"""A link to an MQTT broker that stays up.

It knows nothing of what it carries. It connects, subscribes, says its birth messages, hands over
what arrives, and does so again after every loss, with MQTT 5 where the broker speaks it and 3.1.1
elsewhere. Everything is QoS 1, and QoS is never an argument for correctness: what is queued or
unacknowledged when the connection ends is dropped, because the receipts above this layer make
the sender offer it again, and a broker's PUBACK wasn't a promise anyway.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from qflare.faults import LocalFault
from qflare.host.dial import NoConnection, dial, is_broker
from qflare.host.files import read_bounded
from qflare.host.link_client import Client, SessionEnded
from qflare.host.link_sending import Sending
from qflare.host.link_types import (
    Address,
    Connected,
    Counters,
    Disconnected,
    Event,
    LinkConfig,
    Message,
    Protocol,
    Publication,
    Trouble,
    parse_url,
    private_client_id,
)
from qflare.host.tls import client_context, clock_is_set

__all__ = [
    "Connected",
    "Counters",
    "Disconnected",
    "Event",
    "Link",
    "LinkConfig",
    "Message",
    "Publication",
    "Trouble",
    "private_client_id",
]

T = TypeVar("T")

_PACKET_OVERHEAD = 16  # fixed header, topic length, packet id and property length, rounded up
_STEADY_S = 10.0  # a connection that lived this long ends the counting of failures
_CLOCK_LOOK_S = 5.0  # how often to look whether a clock that was wrong is set
_HOME_MAX_S = 86_400.0  # how rarely to look for a first broker that keeps failing us


@dataclass(frozen=True, slots=True)
class _End:
    """How a connection or an attempt ended. No exception: those keep a dead session in memory."""

    trouble: Trouble
    reason: str
    next_protocol_now: bool = False
    moving: bool = False  # the connection was good, and yet another one is wanted at once


class _Ended(Exception):
    """Carries an `_End` out of a connection."""

    def __init__(self, end: _End) -> None:
        super().__init__(end.reason)
        self.end = end


class _Closed(Exception):
    """`close` was called."""


class Link:
    """One connection to a broker, renewed for as long as `run` runs.

    Everything happens on the event loop that runs `run`; hundreds of links share one.
    """

    def __init__(
        self,
        config: LinkConfig,
        *,
        subscriptions: Sequence[str] = (),
        will: Publication | None = None,
        birth: Sequence[Publication] = (),
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self.counters = Counters()
        self._addresses = tuple(map(parse_url, (config.url, *config.fallbacks)))
        self._at = 0  # which of them is next, or connected
        self._subscriptions = tuple(subscriptions)
        self._will = will
        self._birth = tuple(birth)
        self._rng = rng or random.SystemRandom()
        self._protocol: Protocol = "3.1.1" if config.protocol == "3.1.1" else "5"
        self._speaks_5 = config.protocol != "3.1.1"
        self._sending = Sending(config, self.counters)
        self._closing = asyncio.Event()
        self._again = asyncio.Event()  # what ends a wait between attempts
        self._home_after_s = config.home_after_s
        self._max_packet = config.max_packet
        self._connected = False
        self._was_up = False  # this connection, or the last one

    @property
    def connected(self) -> bool:
        """Would `publish` take a message now (space permitting)?"""
        return self._connected

    def max_payload(self, topic: str) -> int:
        """The largest payload in bytes that one message on `topic` can have on this link."""
        return self._max_packet - len(topic.encode()) - _PACKET_OVERHEAD

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        """Queue a message and return at once: False when not connected or when the queue is full.

        True is no promise of delivery. Raises LocalFault for a payload above `max_payload`: the
        client library would offer it, be cut off and offer it again, for ever.
        """
        if len(payload) > self.max_payload(topic):
            raise LocalFault(
                f"{len(payload)} bytes for {topic} and the link takes {self.max_payload(topic)}; "
                "send it in smaller chunks"
            )
        if not self._connected:
            return False
        publication = Publication(topic, payload, retain)
        if not self._sending.has_room(publication):
            self.counters.queue_full += 1
            return False
        self._sending.add(publication)
        return True

    async def drain(self, within_s: float) -> bool:
        """Wait for the broker's PUBACK of all that is queued; False when time or the link ended."""
        return await self._sending.drain(within_s) and self._connected

    def close(self) -> None:
        """Let `run` say goodbye to the broker (which then keeps the will to itself) and return."""
        self._closing.set()
        self._again.set()

    def retry_now(self) -> None:
        """Wait no longer, if it waits: something changed that may have been in the way."""
        self._again.set()

    async def run(self, on_event: Callable[[Event], None]) -> None:
        """Stay connected until `close` is called or this task is cancelled.

        `on_event` is called on the event loop, in order, and must return quickly: while it runs
        no link on this loop moves. What it raises ends the run.
        """
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._closing.is_set():
            began = loop.time()
            try:
                self._again.clear()
                await self._one_connection(on_event)
                return
            except _Closed:
                return
            except _Ended as ended:
                end = ended.end
            finally:
                self._sending.forget()
            failures = 0 if loop.time() - began > _STEADY_S and self._was_up else failures
            if end.moving:
                on_event(Disconnected(end.reason, False, 0.0))
                continue
            refused, delay = end.trouble is Trouble.REFUSED, 0.0
            if not end.next_protocol_now:
                # Quickly through the whole list, and then wait: any one of them will do.
                self._at = (self._at + 1) % len(self._addresses)
                delay = self._backoff(failures // len(self._addresses), refused)
                failures += 1
            self.counters.failures += 1
            on_event(Disconnected(end.reason, refused, delay, end.trouble))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), delay)
                failures = 0

    def _backoff(self, failures: int, refused: bool) -> float:
        """Full jitter, so that a thousand links don't return at the same instant.

        A refusal won't heal in a second; it waits nearly the longest time from the first one on.
        """
        longest = self.config.backoff_max_s
        if refused:
            return self._rng.uniform(longest / 2, longest)
        grown = self.config.backoff_first_s * 2 ** min(failures, 30)
        return self._rng.uniform(0, min(longest, grown))

    async def _one_connection(self, on_event: Callable[[Event], None]) -> None:
        """Connect and serve; return when closed by us, raise _Ended however else it ends."""
        self._was_up = False
        address, dated = self._addresses[self._at], clock_is_set()
        context = self._tls(address, dated)
        password = self._password()
        try:
            sock = await self._unless_closed(dial(address, context, self.config.connect_within_s))
        except NoConnection as none:
            raise _Ended(_End(none.trouble, str(none))) from None
        client = Client(sock, self.config, self._protocol, password, self._will)
        try:
            try:
                await self._unless_closed(client.open())
                await self._serve(client, address, dated or not address.tls, on_event)
                await client.goodbye()
            except SessionEnded as end:
                raise _Ended(self._explain(address, end)) from None
        finally:
            self._connected = False
            self.counters.refused_out += client.refused
            client.abandon()

    async def _unless_closed(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns; _Closed, and an end of `work`, as soon as `close` is called."""
        working = asyncio.create_task(work)
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({working, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _Closed
            return working.result()
        finally:
            working.cancel()
            closing.cancel()
            await asyncio.gather(working, closing, return_exceptions=True)

    def _tls(self, address: Address, check_dates: bool) -> ssl.SSLContext | None:
        if not address.tls:
            return None
        return client_context(self.config.ca_file, check_dates=check_dates)

    def _password(self) -> str | None:
        """As it is now: whoever changes the file needn't tell us."""
        if self.config.password_file is None:
            return self.config.password
        try:
            return read_bounded(self.config.password_file, 4096).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise LocalFault(f"cannot read the broker password: {error}") from None

    def _explain(self, address: Address, end: SessionEnded) -> _End:
        """Why a session ended or didn't begin, and which protocol to speak next."""
        where = f"{address.host} port {address.port}"
        if self._was_up:
            return _End(Trouble.LOST, str(end))
        if end.refused:
            return _End(
                Trouble.REFUSED,
                f"{where} refuses us: {end}; check the account (broker.password_file, or enrol "
                "again): it is tried again by itself",
            )
        auto = self.config.protocol == "auto"
        if end.unsupported and auto:
            self._speaks_5 = False
        elif end.answered:
            return _End(Trouble.LOST, f"{where}: {end}")
        # A broker that doesn't know MQTT 5 may also hang up or stay silent. So may one that is
        # dying, hence `_speaks_5` stays as it is: after 3.1.1 we'll ask once more.
        spoken = self._protocol
        if auto and not end.stranger:
            self._protocol = "3.1.1" if spoken == "5" or not self._speaks_5 else "5"
            if spoken == "5":
                return _End(_kind(end), f"{where}, MQTT 5: {end}", next_protocol_now=True)
        return _End(
            _kind(end),
            f"{where}, MQTT {spoken}: {end}; is that the broker, or does a captive portal answer "
            "in its place (log this network in)?",
        )

    async def _serve(
        self, client: Client, address: Address, dated: bool, on_event: Callable[[Event], None]
    ) -> None:
        bad = await client.enlist(self._subscriptions) if self._subscriptions else []
        if bad:
            said = f"the broker refused to subscribe us to {', '.join(bad)}"
            raise _Ended(_End(Trouble.LOST, said))
        for publication in self._birth:
            self._sending.add(publication)
        ours = self.config.max_packet
        self._max_packet = min(ours, client.broker_max_packet or ours)
        spoken = self._protocol
        if self.config.protocol == "auto" and self._speaks_5:
            self._protocol = "5"  # for the next time, see _explain
        if not self._at:
            self._home_after_s = self.config.home_after_s
        self.counters.connects += 1
        self._connected = self._was_up = True
        self._again.clear()
        on_event(Connected(spoken, self._max_packet, address.url, dated))
        tasks = {
            asyncio.create_task(self._receive(client, on_event)),
            asyncio.create_task(self._sending.run(client)),
            asyncio.create_task(self._closing.wait()),
        }
        if not dated:
            tasks.add(asyncio.create_task(_until_clock_is_set()))
        if self._at:
            tasks.add(asyncio.create_task(self._until_home_answers()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _until_home_answers(self) -> None:
        """Look for the first broker now and then; raise _Ended when it is there again.

        One that answers this and then doesn't serve us is looked for half as often each time.
        """
        home = self._addresses[0]
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._home_after_s)
            context = self._tls(home, clock_is_set())
            if await is_broker(home, context, self.config.connect_within_s):
                self._at = 0
                self._home_after_s = min(2 * self._home_after_s, _HOME_MAX_S)
                raise _Ended(_End(Trouble.LOST, f"{home.url} answers again", moving=True))

    async def _receive(self, client: Client, on_event: Callable[[Event], None]) -> None:
        counters = self.counters
        async for message in client.received():
            size = len(message.payload)
            counters.messages_in += 1
            counters.bytes_in += size
            if size > self.config.max_packet:
                counters.oversize_in += 1
                continue
            on_event(message)


async def _until_clock_is_set() -> None:
    """Raise _Ended once certificates' dates can be judged."""
    while not clock_is_set():
        await asyncio.sleep(_CLOCK_LOOK_S)
    said = "the clock is set now; connecting again to check the certificates' dates"
    raise _Ended(_End(Trouble.LOST, said, moving=True))


def _kind(end: SessionEnded) -> Trouble:
    """What a session was that never began."""
    if end.answered:
        return Trouble.LOST
    return Trouble.SILENT if end.silent else Trouble.NO_BROKER
