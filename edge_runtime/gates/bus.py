"""One question to NetworkManager over the system's message bus: is the network metered?

The answer is in no file, and a D-Bus library or a program for one number would cost more than the
few bytes that travel (D-Bus Specification 0.43: message format, EXTERNAL authentication).
"""

import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.gates.files import Unreadable

DEADLINE_S = 0.25  # for all of it: the daemon waits meanwhile
_SOCKET = "run/dbus/system_bus_socket"
_CEILING = 16 * 1024  # bytes of any message that we read
_MESSAGES_MAX = 16  # that may come before our answer: the bus greets by a signal
_MANAGER = "org.freedesktop.NetworkManager"
_GONE = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
)
_CALL, _RETURN, _ERROR = 1, 2, 3
_NO_AUTO_START = 2  # a flag: don't start NetworkManager only to ask it
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_TO, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIXED = struct.Struct("<cBBBIII")


@dataclass(frozen=True, slots=True)
class Reply:
    """A message from the bus, as far as we need it."""

    kind: int
    reply_to: int | None
    error: str | None
    signature: str
    body: bytes


def ask_metered(root: Path) -> int | None:
    """NetworkManager's `Metered`, an NMMetered; None if neither it nor a bus runs here.

    Raises Unreadable if the bus answers wrongly or not in time.
    """
    path = root / _SOCKET
    deadline = time.monotonic() + DEADLINE_S
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bus:
            bus.settimeout(DEADLINE_S)
            try:
                bus.connect(str(path))
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                return None
            return _converse(bus, deadline)
    except (OSError, ValueError) as error:
        raise Unreadable(f"the message bus at {path}: {error}") from None


def _converse(bus: socket.socket, deadline: float) -> int | None:
    user = str(os.geteuid()).encode().hex().encode()
    bus.sendall(b"\0AUTH EXTERNAL " + user + b"\r\n")
    line = b""
    while not line.endswith(b"\r\n"):
        if len(line) > 256:
            raise ValueError("it doesn't end its greeting")
        line += _exactly(bus, 1, deadline)
    if not line.startswith(b"OK "):
        raise ValueError("it refuses this user")
    bus.sendall(b"BEGIN\r\n")
    own = "org.freedesktop.DBus"
    bus.sendall(call(1, own, "/org/freedesktop/DBus", own, "Hello"))
    bus.sendall(
        call(
            2,
            _MANAGER,
            "/org/freedesktop/NetworkManager",
            "org.freedesktop.DBus.Properties",
            "Get",
            (_MANAGER, "Metered"),
        )
    )
    for _ in range(_MESSAGES_MAX):
        head = _exactly(bus, _FIXED.size, deadline)
        reply = parse(head + _exactly(bus, size(head) - len(head), deadline))
        if reply.reply_to == 2:
            return metered(reply)
        if reply.reply_to == 1 and reply.kind == _ERROR:
            raise ValueError(f"it doesn't admit us: {reply.error}")
    raise ValueError("it sends everything but an answer")


def metered(reply: Reply) -> int | None:
    """The number in the answer; None if NetworkManager isn't there, else ValueError."""
    if reply.kind == _ERROR:
        if reply.error in _GONE:
            return None
        raise ValueError(
            f"NetworkManager doesn't say whether the network is metered: {reply.error}"
        )
    # A variant: its signature as a short text, then the number on a boundary of four bytes.
    if reply.signature != "v" or len(reply.body) != 8 or reply.body[:3] != b"\x01u\0":
        raise ValueError("NetworkManager's answer is no number")
    return int.from_bytes(reply.body[4:], "little")


def call(
    serial: int, to: str, path: str, interface: str, member: str, texts: tuple[str, ...] = ()
) -> bytes:
    """A method call whose arguments are texts."""
    body = b""
    for each in texts:
        body = _padded(body, 4) + _text(each)
    fields = b""
    for code, kind, value in (
        (_PATH, b"o", _text(path)),
        (_DESTINATION, b"s", _text(to)),
        (_INTERFACE, b"s", _text(interface)),
        (_MEMBER, b"s", _text(member)),
        (_SIGNATURE, b"g", bytes([len(texts)]) + b"s" * len(texts) + b"\0"),
    ):
        if code != _SIGNATURE or texts:
            fields = _padded(fields, 8) + bytes([code, 1]) + kind + b"\0" + value
    head = _FIXED.pack(b"l", _CALL, _NO_AUTO_START, 1, len(body), serial, len(fields))
    return _padded(head + fields, 8) + body


def size(head: bytes) -> int:
    """The length of the message that begins with these 16 bytes; ValueError if it's none for us."""
    order, _, _, version, body, _, fields = _FIXED.unpack(head)
    if order != b"l" or version != 1:  # the bus and we are on one machine, of one byte order
        raise ValueError("it speaks another protocol")
    whole = _FIXED.size + fields + -fields % 8 + body
    if fields > _CEILING or body > _CEILING:
        raise ValueError(f"a message of {whole} bytes is too long")
    return int(whole)


def parse(message: bytes) -> Reply:
    """A whole message; raise ValueError if it is broken or has a header field of unknown form."""
    _, kind, _, _, length, _, fields = _FIXED.unpack(message[: _FIXED.size])
    if len(message) != size(message[: _FIXED.size]):
        raise ValueError("a message is cut short")
    found = _fields(message[_FIXED.size : _FIXED.size + fields])
    reply_to, error, signature = (found.get(c) for c in (_REPLY_TO, _ERROR_NAME, _SIGNATURE))
    return Reply(
        kind,
        reply_to if isinstance(reply_to, int) else None,
        error if isinstance(error, str) else None,
        signature if isinstance(signature, str) else "",
        message[len(message) - length :] if length else b"",
    )


def _fields(data: bytes) -> dict[int, int | str]:
    """Header fields: a code, then a variant that is a text, a signature or a number."""
    found: dict[int, int | str] = {}
    at = 0
    while at < len(data):
        code, kind = data[at], data[at + 1 : at + 4]
        at += 4
        if kind == b"\x01u\0":
            found[code] = int.from_bytes(_slice(data, at, 4), "little")
            at += 4
        elif kind in (b"\x01s\0", b"\x01o\0", b"\x01g\0"):
            wide = 1 if kind == b"\x01g\0" else 4
            length = int.from_bytes(_slice(data, at, wide), "little")
            found[code] = _slice(data, at + wide, length).decode("utf-8", "replace")[:255]
            at += wide + length + 1
        else:
            raise ValueError("a message's header has a form of its own")
        at += -at % 8
    return found


def _slice(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise ValueError("a message is cut short")
    return data[at : at + length]


def _text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(4, "little") + data + b"\0"


def _padded(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def _exactly(bus: socket.socket, length: int, deadline: float) -> bytes:
    data = b""
    while len(data) < length:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        bus.settimeout(left)
        part = bus.recv(length - len(data))
        if not part:
            raise ValueError("it hangs up")
        data += part
    return data
