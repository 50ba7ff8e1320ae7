"""A link to an MQTT broker that stays up: the only place that meets an MQTT client.

It knows nothing of what it carries. It connects, subscribes, says its birth messages, hands over
what arrives, and does so again after every loss, with MQTT 5 where the broker speaks it and 3.1.1
elsewhere. Everything is QoS 1, and QoS is never an argument for correctness: what is queued or
unacknowledged when the connection ends is dropped, because the receipts above this layer make
the sender offer it again, and a broker's PUBACK wasn't a promise anyway.

aiomqtt is pinned below 3 and a few of its hooks are overridden, all of them in `_Client`: it
would tell us neither the broker's packet limit nor why a connection ended before its CONNACK.
"""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from qflare.faults import LocalFault
from qflare.host.files import read_bounded
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
    "private_client_id",
]

_PACKET_OVERHEAD = 16  # fixed header, topic length, packet id and property length, rounded up
_UNSUPPORTED = frozenset({1, 132})  # CONNACK: unacceptable protocol version, in 3.1.1 and in 5
_REFUSED = frozenset({4, 5, 133, 134, 135, 138, 140})  # CONNACK: who we are, or our client id
_STEADY_S = 10.0  # a connection that lived this long ends the counting of failures
_CLOCK_LOOK_S = 5.0  # how often to look whether a clock that was wrong is set


class _Failure(Exception):
    """A connection or an attempt ended."""

    def __init__(self, reason: str, refused: bool = False, next_protocol_now: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused
        self.next_protocol_now = next_protocol_now


class _Move(Exception):
    """The connection is good, and yet another one is wanted at once; the reason is for people."""


class _Client(aiomqtt.Client):
    """aiomqtt's client, which also says what the broker announced and why it went away."""

    reached = False  # a TCP connection stood, whatever came of it
    abandoned = False
    broker_max_packet: int | None = None
    broker_window: int | None = None
    refused = 0

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        if self.abandoned:  # the connecting thread outlived its purpose; the socket dies with it
            return
        self.reached = True
        super()._on_socket_open(client, userdata, sock)

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        self.broker_max_packet = getattr(properties, "MaximumPacketSize", None)
        self.broker_window = getattr(properties, "ReceiveMaximum", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        self._loop.call_soon_threadsafe(self._closed_early)

    def _closed_early(self) -> None:
        if not self._connected.done() and not self.abandoned:
            self._connected.set_exception(aiomqtt.MqttError("closed before an answer"))

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any
    ) -> None:
        if _code(reason_code) >= 128:
            self.refused += 1
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def abandon(self) -> None:
        """Close what is still open, without a goodbye: an unplanned end is what a will is for."""
        self.abandoned = True
        with suppress(OSError):
            self._client._sock_close()
        if self._connected.done() and not self._connected.cancelled():
            self._connected.exception()  # seen; asyncio needn't complain about it


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
        self._queue: asyncio.Queue[Publication] = asyncio.Queue()
        self._queued_bytes = 0
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()
        self._max_packet = config.max_packet
        self._connected = False

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
        too_many = self._queue.qsize() >= self.config.queue_messages
        if too_many or self._queued_bytes + len(payload) > self.config.queue_bytes:
            self.counters.queue_full += 1
            return False
        self._put(Publication(topic, payload, retain))
        return True

    async def drain(self, within_s: float) -> bool:
        """Wait for the broker's PUBACK of all that is queued; False when time or the link ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_s)
        return self._connected and self._idle.is_set()

    def close(self) -> None:
        """Let `run` say goodbye to the broker (which then keeps the will to itself) and return."""
        self._closing.set()

    async def run(self, on_event: Callable[[Event], None]) -> None:
        """Stay connected until `close` is called or this task is cancelled.

        `on_event` is called on the event loop, in order, and must return quickly: while it runs
        no link on this loop moves. What it raises ends the run.
        """
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._closing.is_set():
            began = loop.time()
            end: _Failure | _Move
            try:
                await self._one_connection(on_event)
                return
            except _Failure as failure:
                end = failure
            except _Move as move:
                end = move
            finally:
                self._forget_queue()
            failures = 0 if loop.time() - began > _STEADY_S else failures
            if isinstance(end, _Move):
                on_event(Disconnected(str(end), False, 0.0))
                continue
            delay = 0.0
            if not end.next_protocol_now:
                # Quickly through the whole list, and then wait: any one of them will do.
                self._at = (self._at + 1) % len(self._addresses)
                delay = self._backoff(failures // len(self._addresses), end.refused)
                failures += 1
            self.counters.failures += 1
            on_event(Disconnected(str(end), end.refused, delay))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay)

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
        """Connect and serve; return when closed by us, raise _Failure however else it ends."""
        address, dated = self._addresses[self._at], clock_is_set()
        client = self._make_client(address, dated)
        try:
            try:
                await client.__aenter__()
            except aiomqtt.MqttError as error:
                raise self._explain(client, error) from None
            try:
                await self._serve(client, address, dated or not address.tls, on_event)
            except aiomqtt.MqttError as error:
                raise _Failure(str(error.__cause__ or error)) from None
            with suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)
        finally:
            self._connected = False
            self.counters.refused_out += client.refused
            client.abandon()

    def _make_client(self, address: Address, check_dates: bool) -> _Client:
        config = self.config
        tls = client_context(config.ca_file, check_dates=check_dates) if address.tls else None
        password = config.password
        if config.password_file is not None:
            try:
                password = read_bounded(config.password_file, 4096).decode().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise LocalFault(f"cannot read the broker password: {error}") from None
        v5 = self._protocol == "5"
        properties = None
        if v5:
            properties = Properties(1)  # type: ignore[no-untyped-call] # 1: of a CONNECT
            properties.SessionExpiryInterval = config.session_expiry_s
            properties.MaximumPacketSize = config.max_packet
        client = _Client(
            address.host,
            address.port,
            username=config.username,
            password=password,
            identifier=config.client_id or private_client_id(config.username, password or ""),
            protocol=aiomqtt.ProtocolVersion.V5 if v5 else aiomqtt.ProtocolVersion.V311,
            # What waits in the broker from before a reconnect is wanted: never start clean.
            clean_session=None if v5 else False,
            clean_start=False if v5 else 3,  # 3: the library's own default, all it takes here
            properties=properties,
            keepalive=config.keepalive_s,
            timeout=config.connect_within_s,
            max_inflight_messages=config.window,
            tls_context=tls,
            will=None
            if self._will is None
            else aiomqtt.Will(self._will.topic, self._will.payload, 1, self._will.retain),
        )
        client.pending_calls_threshold = config.window + 10
        return client

    def _explain(self, client: _Client, error: aiomqtt.MqttError) -> _Failure:
        """Why connecting failed, and which protocol to speak next."""
        code = _code(error.rc) if isinstance(error, aiomqtt.MqttCodeError) else None
        if code in _REFUSED:
            return _Failure(f"refused by the broker: {error}", refused=True)
        if self.config.protocol != "auto" or not client.reached:
            return _Failure(str(error))
        if code in _UNSUPPORTED:
            self._speaks_5 = False
        elif code is not None:
            return _Failure(str(error))
        # A broker that doesn't know MQTT 5 may also hang up or stay silent. So may one that is
        # dying, hence `_speaks_5` stays as it is: after 3.1.1 we'll ask once more.
        was_5 = self._protocol == "5"
        self._protocol = "3.1.1" if was_5 or not self._speaks_5 else "5"
        hint = "" if was_5 else "; is that a broker, or a captive portal on the way to it?"
        return _Failure(f"MQTT {'5' if was_5 else '3.1.1'}: {error}{hint}", next_protocol_now=was_5)

    async def _serve(
        self, client: _Client, address: Address, dated: bool, on_event: Callable[[Event], None]
    ) -> None:
        if self._subscriptions:
            codes = await client.subscribe([(name, 1) for name in self._subscriptions])
            answers = zip(self._subscriptions, codes, strict=False)
            bad = [name for name, code in answers if _code(code) >= 128]
            if bad:
                raise _Failure(f"the broker refused to subscribe us to {', '.join(bad)}")
        for publication in self._birth:
            self._put(publication)
        ours = self.config.max_packet
        self._max_packet = min(ours, client.broker_max_packet or ours)
        spoken = self._protocol
        if self.config.protocol == "auto" and self._speaks_5:
            self._protocol = "5"  # for the next time, see _explain
        self.counters.connects += 1
        self._connected = True
        on_event(Connected(spoken, self._max_packet, address.url, dated))
        tasks = {
            asyncio.create_task(self._receive(client, on_event)),
            asyncio.create_task(self._send(client)),
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
        """Look for the first broker now and then; raise _Move when it is there again."""
        home = self._addresses[0]
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self.config.home_after_s)
            try:
                async with asyncio.timeout(self.config.connect_within_s):
                    _, writer = await asyncio.open_connection(home.host, home.port)
            except OSError:  # TimeoutError is one
                continue
            writer.close()
            self._at = 0
            raise _Move(f"{home.url} answers again")

    async def _receive(self, client: _Client, on_event: Callable[[Event], None]) -> None:
        counters = self.counters
        async for message in client.messages:
            payload = message.payload
            if not isinstance(payload, bytes):
                payload = b""
            counters.messages_in += 1
            counters.bytes_in += len(payload)
            if len(payload) > self.config.max_packet:
                counters.oversize_in += 1
                continue
            on_event(Message(str(message.topic), payload, bool(message.retain)))

    async def _send(self, client: _Client) -> None:
        """Send from the queue, `window` messages ahead of their PUBACKs.

        A task of its own: a PUBACK comes behind whatever else is inbound, and whoever waited for
        it in the receiving loop would wait for himself.
        """
        size = min(self.config.window, client.broker_window or self.config.window)
        window = asyncio.Semaphore(size)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        flights: set[asyncio.Task[None]] = set()

        async def fly(publication: Publication) -> None:
            try:
                await client.publish(
                    publication.topic,
                    publication.payload,
                    qos=1,
                    retain=publication.retain,
                    timeout=self.config.ack_within_s or math.inf,
                )
                self._landed(publication)
            except aiomqtt.MqttError as error:
                if not failed.done():
                    failed.set_exception(error)
            finally:
                window.release()

        async def launch() -> None:
            while True:
                publication = await self._queue.get()
                await window.acquire()
                flight = asyncio.create_task(fly(publication))
                flights.add(flight)
                flight.add_done_callback(flights.discard)

        launcher = asyncio.create_task(launch())
        try:
            await failed
        finally:
            launcher.cancel()
            for flight in flights:
                flight.cancel()
            await asyncio.gather(launcher, *flights, return_exceptions=True)

    def _put(self, publication: Publication) -> None:
        self._queue.put_nowait(publication)
        self._queued_bytes += len(publication.payload)
        self._outstanding += 1
        self._idle.clear()

    def _landed(self, publication: Publication) -> None:
        self.counters.messages_out += 1
        self.counters.bytes_out += len(publication.payload)
        self._queued_bytes -= len(publication.payload)
        self._outstanding -= 1
        if self._outstanding == 0:
            self._idle.set()

    def _forget_queue(self) -> None:
        self.counters.lost_out += self._outstanding
        self._queue = asyncio.Queue()
        self._queued_bytes = self._outstanding = 0
        self._idle.set()


async def _until_clock_is_set() -> None:
    """Raise _Move once certificates' dates can be judged."""
    while not clock_is_set():
        await asyncio.sleep(_CLOCK_LOOK_S)
    raise _Move("the clock is set now; connecting again to check the certificates' dates")


def _code(reason: Any) -> int:
    return reason.value if isinstance(reason, ReasonCode) else int(reason or 0)
