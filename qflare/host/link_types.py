"""What a link is told, and what it tells: no MQTT in here."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from qflare.faults import LocalFault

Protocol = Literal["5", "3.1.1"]


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to send."""

    topic: str
    payload: bytes = field(repr=False)
    retain: bool = False


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Where to connect and as whom. The password stands in `password_file` or in `password`.

    `fallbacks` are brokers of the same fleet, in the order in which they are tried while `url`
    doesn't answer.

    With `mqtt://` the password goes to whoever answers: only `mqtts://` asks for proof first.

    An empty `client_id` becomes one that nobody else can guess: a broker that doesn't tie client
    ids to users lets anyone who knows an id take over its session.
    """

    url: str
    username: str
    fallbacks: tuple[str, ...] = ()
    home_after_s: float = 900.0  # how often a link on a fallback looks for `url`
    ca_file: Path | None = None  # PEM; without it the system's CAs count
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    client_id: str = ""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive_s: int = 60
    connect_within_s: float = 10.0  # for name, TCP and TLS; and again for the broker's answer
    ack_within_s: float = 120.0
    session_expiry_s: int = 86_400
    backoff_first_s: float = 0.2
    backoff_max_s: float = 30.0
    window: int = 16  # messages on their way without a PUBACK
    max_packet: int = 1024 * 1024  # bytes, both ways
    queue_messages: int = 2_000
    queue_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up, subscribed, and its birth messages are on their way."""

    protocol: Protocol
    max_packet: int  # bytes of a whole packet that the broker takes from us
    url: str = ""
    dates_checked: bool = True  # False: the clock isn't set, so no certificate's dates were judged


class Trouble(StrEnum):
    """What kind of thing keeps a link from its broker: the first that failed on the way there."""

    NAME = "name"  # no DNS server answers, or none knows the broker's name
    UNREACHABLE = "unreachable"  # no route, nothing listens, or nothing answers
    SILENT = "silent"  # something takes the connection and says nothing
    NO_BROKER = "no_broker"  # something else answers: a captive portal, a web server
    CERTIFICATE = "certificate"  # it can't prove to be the broker: a captive portal, a wrong CA
    CLOCK = "clock"  # its certificate is of another time: it is outdated, or our clock is wrong
    REFUSED = "refused"  # the broker knows us and says no: wrong password, not authorised
    LOST = "lost"  # there was a connection, and the broker or the path to it ended it


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended, or an attempt failed; the link tries again by itself."""

    reason: str  # and what to do about it
    refused: bool  # is it Trouble.REFUSED?
    retry_in_s: float
    trouble: Trouble = Trouble.LOST


@dataclass(frozen=True, slots=True)
class Message:
    """A message that arrived; untrusted, at most `max_packet` bytes."""

    topic: str
    payload: bytes = field(repr=False)
    retained: bool


Event = Connected | Disconnected | Message


@dataclass(slots=True)
class Counters:
    """What the link did since it was made."""

    connects: int = 0
    failures: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    queue_full: int = 0  # publish() returned False while connected
    lost_out: int = 0  # queued or unacknowledged when a connection ended
    refused_out: int = 0  # MQTT 5: the broker said "not authorised" or the like
    oversize_in: int = 0


def private_client_id(username: str, password: str) -> str:
    """A client id that stays the same, belongs to `username` and can't be guessed by others."""
    mark = hashlib.sha256(f"mqtt client id\0{username}\0{password}".encode()).hexdigest()
    return f"{username}-{mark[:20]}"


@dataclass(frozen=True, slots=True)
class Address:
    """One broker."""

    url: str
    host: str
    port: int
    tls: bool


def parse_url(text: str) -> Address:
    """`mqtt://host[:port]` or `mqtts://…`; raise LocalFault for anything else."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:  # of the port, or of brackets that hold no IPv6 address
        url, port = urlsplit(""), 0
    plain = not (url.path.strip("/") or url.query or url.fragment or url.username or url.password)
    if url.scheme not in ("mqtt", "mqtts") or not url.hostname or port == 0 or not plain:
        shown = "(not shown, as it names a user)" if "@" in text else repr(text)
        raise LocalFault(
            f"broker address {shown}: want mqtt://host:port or mqtts://host:port, with user "
            "and password in their own settings"
        )
    tls = url.scheme == "mqtts"
    return Address(text, url.hostname, port or (8883 if tls else 1883), tls)
