"""From a broker's address to a connected socket, or to words that say what is in the way.

Nothing here blocks the event loop or outlives it: a name is looked up in a thread that nobody waits
for at the end (a resolver whose server is gone takes half a minute to say so, and can't be
interrupted), all else is done without threads. No byte of ours but the TLS handshake goes to the
other side before it has proved to be the broker.
"""

import asyncio
import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from qflare.host.link_types import Address, Trouble

T = TypeVar("T")
Place = tuple[socket.AddressFamily, tuple[Any, ...]]

_PLACES_MAX: Final = 4  # of one name, so that each has time for a second SYN
# Bytes of a TCP segment, either way: what fits wherever IPv6 may go (RFC 8200: 1280, less both
# headers). A tunnel or a modem that takes less than the interface says, behind a firewall that
# drops the ICMP message about it, would let pings through and no chunk ever. It costs 2 %.
_SEGMENT: Final = 1220
_PINGREQ: Final = b"\xc0\x00"
_DISCONNECT: Final = 0xE0
# X509_V_ERR_…: not yet valid, has expired
_OTHER_TIME: Final = (9, 10)

_lookups: dict[tuple[str, int], Future[list[Place]]] = {}
_lock = threading.Lock()


class NoConnection(Exception):
    """There is no connection: what kind of trouble, and in words what to do."""

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble = trouble


async def dial(address: Address, tls: ssl.SSLContext | None, within_s: float) -> socket.socket:
    """A connected socket that doesn't block, with its TLS handshake done if `tls` is given.

    Raises NoConnection.
    """
    ends = asyncio.get_running_loop().time() + within_s
    sock = await _connect(address, await _look_up(address, within_s), ends)
    if tls is None:
        return sock
    try:
        sock = tls.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
        async with asyncio.timeout_at(ends):
            await _retrying(sock, sock.do_handshake)
        return sock
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):  # TimeoutError and ssl.SSLError are such
            raise _about_tls(address, error) from None
        raise


async def is_broker(address: Address, tls: ssl.SSLContext | None, within_s: float) -> bool:
    """Does an MQTT broker answer there? Found out without a name or a password.

    A broker must hang up on whoever begins with anything but a CONNECT (MQTT 5, 3.1.0-1 and
    4.13.1-1; MQTT 3.1.1, 4.8.0-1). What accepts connections for a dead broker stays silent, and a
    web server has something to say.
    """
    try:
        sock = await dial(address, tls, within_s)
    except NoConnection:
        return False
    try:
        async with asyncio.timeout(within_s):
            await _retrying(sock, lambda: sock.send(_PINGREQ))
            said = await _retrying(sock, lambda: sock.recv(16))
    except TimeoutError:
        return False
    except OSError:  # it hung up, and not gently
        return True
    finally:
        sock.close()
    return not said or said[0] == _DISCONNECT


async def _look_up(address: Address, within_s: float) -> list[Place]:
    """Where the name leads, one place of each family first; raise NoConnection."""
    lookup = asyncio.wrap_future(_lookup(address.host, address.port))
    try:
        async with asyncio.timeout(within_s):
            return await lookup
    except socket.gaierror as error:
        said = error.strerror or str(error)
    except ValueError:  # a label that is too long, or a NUL
        said = "that is no name"
    except TimeoutError:
        said = f"no answer within {within_s:g} s"
    raise NoConnection(
        Trouble.NAME,
        f"cannot look up {address.host}: {said}; is there a network, and is its DNS server well?",
    )


def _lookup(host: str, port: int) -> Future[list[Place]]:
    """The lookup that runs, or a new one: however often we ask, one thread waits for an answer."""
    with _lock:
        running = _lookups.get((host, port))
        if running is not None:
            return running
        future: Future[list[Place]] = Future()
        future.set_running_or_notify_cancel()  # whoever waits may give up, it goes on

        def run() -> None:
            found: list[Place] | Exception
            try:
                found = _ordered(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except Exception as error:
                found = error
            with _lock:
                del _lookups[host, port]
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found)

        _lookups[host, port] = future
    if _is_literal(host):
        run()
    else:
        threading.Thread(target=run, name="look up", daemon=True).start()
    return future


def _is_literal(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, host.partition("%")[0])
            return True
    return False


def _ordered(found: list[tuple[Any, ...]]) -> list[Place]:
    """The best of each family before the rest: half of a dual stack may lead nowhere."""
    places = list(dict.fromkeys((entry[0], entry[4]) for entry in found))
    first = dict(reversed(places))
    heads = [place for place in places if first[place[0]] == place[1]]
    return [*heads, *(place for place in places if place not in heads)][:_PLACES_MAX]


async def _connect(address: Address, places: list[Place], ends: float) -> socket.socket:
    """The first place that takes a connection, each with its share of the time."""
    loop = asyncio.get_running_loop()
    said = "the name has no address"
    for number, (family, place) in enumerate(places):
        share = (ends - loop.time()) / (len(places) - number)
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
            async with asyncio.timeout(share):
                await loop.sock_connect(sock, place)
            return sock
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            said = f"no answer within {share:.0f} s" if _is_late(error) else _words(error)
    raise NoConnection(
        Trouble.UNREACHABLE,
        f"{address.host} port {address.port}: {said}; check the network, the broker, and the "
        "firewall between",
    )


async def _retrying(sock: socket.socket, call: Callable[[], T]) -> T:
    """What `call` returns once the socket is ready for it."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return call()
        except ssl.SSLWantWriteError:
            add, remove = loop.add_writer, loop.remove_writer
        except (ssl.SSLWantReadError, BlockingIOError):
            add, remove = loop.add_reader, loop.remove_reader
        ready: asyncio.Future[None] = loop.create_future()
        add(sock.fileno(), _answer, ready)
        try:
            await ready
        finally:
            remove(sock.fileno())


def _answer(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _about_tls(address: Address, error: OSError) -> NoConnection:
    """What a handshake's end tells."""
    where = f"{address.host} port {address.port}"
    portal = "a captive portal answers in its place (log this network in), or it is another server"
    if isinstance(error, ssl.SSLCertVerificationError):
        said = (error.verify_message or str(error)).rstrip(".")
        if error.verify_code in _OTHER_TIME:
            today = time.strftime("%Y-%m-%d", time.gmtime())
            return NoConnection(
                Trouble.CLOCK,
                f"{where}: {said} ({_code(error)}), and here it is {today}; if that is wrong, set "
                "the clock, else renew the broker's certificate",
            )
        return NoConnection(
            Trouble.CERTIFICATE,
            f"{where}: {said} ({_code(error)}); {portal}, or broker.ca_file isn't its CA",
        )
    if _is_late(error):
        return NoConnection(
            Trouble.SILENT,
            f"{where} takes the connection and doesn't answer the TLS handshake; the broker hangs, "
            "or a firewall or captive portal holds us (log this network in)",
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return NoConnection(
            Trouble.NO_BROKER,
            f"{where} doesn't speak TLS 1.3 as a broker would ({_code(error)}); {portal}, or the "
            "port is for mqtt://",
        )
    return NoConnection(
        Trouble.NO_BROKER, f"{where} hung up during the TLS handshake; {portal}, or not ready yet"
    )


def _code(error: ssl.SSLError) -> str:
    return error.reason or "no reason given"


def _is_late(error: OSError) -> bool:
    return isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT


def _words(error: OSError) -> str:
    # asyncio's own text repeats the address.
    return os.strerror(error.errno) if error.errno else str(error)
