"""One MQTT session over a socket that is connected already: the only place that meets a client
library.

aiomqtt is pinned below 3 and some of its hooks, and of paho's below it, are overridden, all of
them here. By itself it would connect in threads that nobody can interrupt, notice a dead connection
after two keep-alive times, and tell us neither the broker's packet limit nor why a connection
ended before its CONNACK.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from qflare.host.link_types import LinkConfig, Message, Protocol, Publication, private_client_id

_UNSUPPORTED: Final = frozenset({1, 132})  # CONNACK: unacceptable protocol, in 3.1.1 and in 5
_REFUSED: Final = frozenset({4, 5, 133, 134, 135, 138, 140})  # CONNACK: who we are, or our id
_CONNACK: Final = 0x20
_CEILING: Final = 16 * 1024 * 1024  # bytes of a packet that we read only to drop it
_GOODBYE_S: Final = 2.0


class SessionEnded(Exception):
    """The session ended, or didn't begin; `code` is the CONNACK's, if there was one."""

    def __init__(
        self, reason: str, code: int | None = None, *, stranger: bool = False, silent: bool = False
    ) -> None:
        super().__init__(reason)
        self.refused = code in _REFUSED
        self.unsupported = code in _UNSUPPORTED
        self.answered = code is not None
        self.stranger = stranger  # what answered speaks no MQTT
        self.silent = silent  # nothing answered


class Client(aiomqtt.Client):
    """A session from CONNECT to its end. Make it, `open` it once, and `abandon` it in any case."""

    broker_max_packet: int | None = None
    broker_window: int | None = None
    refused = 0  # publications that the broker refused, which only MQTT 5 tells

    def __init__(
        self,
        sock: socket.socket,
        config: LinkConfig,
        protocol: Protocol,
        password: str | None,
        will: Publication | None,
    ) -> None:
        v5 = protocol == "5"
        properties = None
        if v5:
            properties = Properties(1)  # type: ignore[no-untyped-call] # 1: of a CONNECT
            properties.SessionExpiryInterval = config.session_expiry_s
            properties.MaximumPacketSize = config.max_packet
        super().__init__(
            "given",  # paho wants a host and a port, and asks for a socket below
            1,
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
            will=None if will is None else aiomqtt.Will(will.topic, will.payload, 1, will.retain),
        )
        self.pending_calls_threshold = config.window + 10
        self._given = sock
        self._heard = False
        self._client._create_socket = lambda: sock  # type: ignore[method-assign]

    async def open(self) -> None:
        """Say CONNECT and wait for the broker's yes; raise SessionEnded."""
        try:
            self._client_connect()
            await self._wait_for(self._connected, timeout=None)
        except aiomqtt.MqttCodeError as error:
            raise SessionEnded(str(error), _code(error.rc)) from None
        except aiomqtt.MqttError as error:
            heard = self._connected.done() and not self._connected.cancelled()
            said = str(error) if heard else f"no answer within {self.timeout:g} s"
            raise SessionEnded(said, silent=not heard) from None

    async def enlist(self, filters: Sequence[str]) -> list[str]:
        """Subscribe to these, and return those that the broker refused; raise SessionEnded."""
        try:
            codes = await self.subscribe([(name, 1) for name in filters])
        except aiomqtt.MqttError as error:
            raise _ended(error) from None
        return [name for name, code in zip(filters, codes, strict=False) if _code(code) >= 128]

    async def send(self, publication: Publication, within_s: float) -> None:
        """Publish and wait for the PUBACK, for ever if `within_s` is 0; raise SessionEnded."""
        try:
            await self.publish(
                publication.topic,
                publication.payload,
                qos=1,
                retain=publication.retain,
                timeout=within_s or math.inf,
            )
        except aiomqtt.MqttError as error:
            raise _ended(error) from None

    async def received(self) -> AsyncIterator[Message]:
        """What arrives, until SessionEnded is raised."""
        try:
            async for message in self.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                yield Message(str(message.topic), payload, bool(message.retain))
        except aiomqtt.MqttError as error:
            raise _ended(error) from None

    async def goodbye(self) -> None:
        """Tell the broker that this end is wanted, so that it keeps the will to itself."""
        self._client.disconnect()
        with suppress(aiomqtt.MqttError):
            await self._wait_for(asyncio.shield(self._disconnected), _GOODBYE_S)

    def abandon(self) -> None:
        """Close what is still open, without a goodbye: an unplanned end is what a will is for."""
        with suppress(OSError):
            self._client._sock_close()
        self._given.close()
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # seen; asyncio needn't complain about it
            future.cancel()

    # What paho tells. All of it happens on the event loop, as nothing else calls paho here.

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        self.broker_max_packet = getattr(properties, "MaximumPacketSize", None)
        self.broker_window = getattr(properties, "ReceiveMaximum", None)
        # paho pings after this time of silence, and gives up after it once more: 1.5 of what the
        # broker was told, which is also how long a broker waits for us.
        client._keepalive = math.ceil(client._keepalive * 3 / 4)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("closed before an answer"))

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any
    ) -> None:
        if _code(reason_code) >= 128:
            self.refused += 1
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_socket_open(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.add_reader(sock.fileno(), self._readable, sock)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _on_socket_register_write(self, _client: Any, _userdata: Any, sock: Any) -> None:
        self._loop.add_writer(sock.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:
            self._break(error)

    def _readable(self, sock: socket.socket) -> None:
        try:
            if not self._heard:
                self._heard = True
                _must_be_connack(sock)
            while True:
                self._client.loop_read()
                if self._client._in_packet["remaining_length"] > _CEILING:
                    raise SessionEnded("the broker announced a packet that is too large")
                if self._client._sock is None or not _has_more(sock):
                    return
        except Exception as error:  # a broker's bytes may be anything, and paho raises anything
            self._break(error)

    def _break(self, error: Exception) -> None:
        self._client._sock_close()
        if not isinstance(error, SessionEnded):
            error = SessionEnded(f"{type(error).__name__}: {error}")
        for future in (self._connected, self._disconnected):
            if not future.done():
                future.set_exception(error)
                return


def _must_be_connack(sock: socket.socket) -> None:
    """Raise SessionEnded if something else than an MQTT broker answers.

    Only where TLS hasn't told already: behind it nobody answers in the broker's place.
    """
    if isinstance(sock, ssl.SSLSocket):
        return
    first = sock.recv(5, socket.MSG_PEEK)
    if first and first[0] != _CONNACK:
        said = "HTTP" if first.startswith((b"HTTP", b"<")) else "no MQTT"
        raise SessionEnded(f"it speaks {said}", stranger=True)


def _has_more(sock: socket.socket) -> bool:
    """Did TLS read more from the network than was asked for? No event will tell of that."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def _ended(error: aiomqtt.MqttError) -> SessionEnded:
    return SessionEnded(str(error.__cause__ or error))


def _code(reason: Any) -> int:
    return reason.value if isinstance(reason, ReasonCode) else int(reason or 0)
