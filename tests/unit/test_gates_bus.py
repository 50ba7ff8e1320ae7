"""The one question to NetworkManager: over a real message bus, and over ones that misbehave."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edge_runtime.gates import bus
from edge_runtime.gates.bus import ask_metered
from edge_runtime.gates.files import Unreadable

SOCKET = "run/dbus/system_bus_socket"
MANAGER = "org.freedesktop.NetworkManager"
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><auth>EXTERNAL</auth><listen>unix:path={path}</listen>
<policy context="default"><allow user="*"/><allow own="*"/><allow eavesdrop="true"/>
<allow send_destination="*" eavesdrop="true"/></policy></busconfig>
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / SOCKET).parent.mkdir(parents=True)
    return tmp_path


@pytest.fixture
def real_bus(root: Path) -> Iterator[Path]:
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("dbus-daemon is not installed")
    config = root / "bus.conf"
    config.write_text(CONFIG.format(path=root / SOCKET))
    daemon = subprocess.Popen([program, f"--config-file={config}", "--nofork", "--nopidfile"])
    try:
        while not (root / SOCKET).exists():
            assert daemon.poll() is None
            time.sleep(0.01)
        yield root
    finally:
        daemon.kill()
        daemon.wait()


def field(code: int, kind: bytes, value: bytes) -> bytes:
    data = bytes([code, 1]) + kind + b"\0" + value
    return data + bytes(-len(data) % 8)


def text(value: str) -> bytes:
    return len(value).to_bytes(4, "little") + value.encode() + b"\0"


def message(kind: int, serial: int, fields: bytes, body: bytes) -> bytes:
    # The last field's padding belongs to the header, not to the array of fields.
    length = len(fields.rstrip(b"\0")) + 1 if fields else 0
    head = bus._FIXED.pack(b"l", kind, 0, 1, len(body), serial, length)
    return head + fields + body


class Service:
    """NetworkManager's stand-in on a real bus: owns the name, and answers one call."""

    def __init__(self, root: Path, answer: bytes, signature: bytes = b"\x01v\0") -> None:
        self.answer, self.signature = answer, signature
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link.settimeout(10)
        self.link.connect(str(root / SOCKET))
        user = str(os.geteuid()).encode().hex().encode()
        self.link.sendall(b"\0AUTH EXTERNAL " + user + b"\r\nBEGIN\r\n")
        while self.link.recv(1) != b"\n":
            pass
        own = "org.freedesktop.DBus"
        self.link.sendall(bus.call(1, own, "/org/freedesktop/DBus", own, "Hello"))
        fields = (
            field(1, b"o", text("/org/freedesktop/DBus"))
            + field(6, b"s", text(own))
            + field(2, b"s", text(own))
            + field(3, b"s", text("RequestName"))
            + field(8, b"g", b"\x02su\0")
        )
        name = text(MANAGER)
        self.link.sendall(message(1, 2, fields, name + bytes(-len(name) % 4) + bytes(4)))
        while self.read()[1].reply_to != 2:
            pass
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def read(self) -> tuple[bytes, bus.Reply]:
        head = b""
        while len(head) < 16:
            head += self.link.recv(16 - len(head))
        whole = head
        while len(whole) < bus.size(head):
            whole += self.link.recv(bus.size(head) - len(whole))
        return whole, bus.parse(whole)

    def serve(self) -> None:
        while True:
            whole, call = self.read()
            if call.kind == 1:
                break
        self.called, self.flags = call, whole[2]
        at = whole.index(b"\x07\x01s\0") + 4  # the sender, to whom the answer goes
        sender = whole[at + 4 : at + 4 + int.from_bytes(whole[at : at + 4], "little")].decode()
        serial = whole[8:12]
        fields = field(5, b"u", serial) + field(6, b"s", text(sender))
        self.link.sendall(message(2, 3, fields + field(8, b"g", self.signature), self.answer))


def test_no_bus_and_no_manager(root: Path) -> None:
    assert ask_metered(root) is None
    assert ask_metered(root / "nowhere") is None


def test_a_real_bus_without_network_manager(real_bus: Path) -> None:
    assert ask_metered(real_bus) is None


@pytest.mark.parametrize("value", [0, 1, 4])
def test_a_real_bus_with_an_answer(real_bus: Path, value: int) -> None:
    service = Service(real_bus, b"\x01u\0\0" + value.to_bytes(4, "little"))
    assert ask_metered(real_bus) == value
    service.thread.join(10)
    assert service.called.signature == "ss"
    assert service.flags == 2  # NO_AUTO_START: asking must not start NetworkManager
    assert text("Metered") in service.called.body
    service.link.close()


def test_an_answer_of_another_form(real_bus: Path) -> None:
    service = Service(real_bus, b"\x01s\0\0" + text("yes"))
    with pytest.raises(Unreadable, match="is no number"):
        ask_metered(real_bus)
    service.link.close()


def serve(root: Path, talk: Callable[[socket.socket], None]) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(root / SOCKET))
    listener.listen(1)

    def run() -> None:
        with listener, listener.accept()[0] as peer, suppress(ConnectionError):
            talk(peer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def mute(peer: socket.socket) -> None:
    while peer.recv(4096):
        pass


def refuse(peer: socket.socket) -> None:
    peer.sendall(b"REJECTED EXTERNAL\r\n")
    mute(peer)


def prattle(peer: socket.socket) -> None:
    peer.sendall(b"OK 00\r\n" + message(4, 1, b"", b"") * 1000)
    mute(peer)


def drone(peer: socket.socket) -> None:
    peer.sendall(b"x" * 4096)
    mute(peer)


def bloat(peer: socket.socket) -> None:
    peer.sendall(b"OK 00\r\n" + bus._FIXED.pack(b"l", 2, 0, 1, 2**31, 1, 0))
    mute(peer)


def hang_up(peer: socket.socket) -> None:
    peer.recv(10)


@pytest.mark.parametrize(
    ("talk", "word"),
    [
        (mute, "no answer in time|timed out"),
        (refuse, "refuses this user"),
        (prattle, "everything but an answer"),
        (drone, "doesn't end its greeting"),
        (bloat, "too long"),
        (hang_up, "hangs up|reset|Broken pipe"),
    ],
)
def test_a_bus_that_misbehaves(
    root: Path, talk: Callable[[socket.socket], None], word: str
) -> None:
    thread = serve(root, talk)
    with pytest.raises(Unreadable, match=word):
        ask_metered(root)
    thread.join(10)
    assert not thread.is_alive()
