"""`qflare-enclave` as a process: sockets, signals, `kill -9`, garbage."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enclave import slots
from enclave.measure import ROOT, measure
from qflare.enclave_wire import (
    REPLIES,
    Admitted,
    Ask,
    Refused,
    Release,
    Released,
    RoundOpened,
    Standing,
)
from qflare.messages import Message, parse_any
from qflare.policy import ReferenceValue
from tests.enclave_kit import Driver, Fleet, after


class Enclave:
    """A real process and one connection to it."""

    def __init__(self, directory: Path, fleet: Fleet) -> None:
        self.directory, self.fleet = directory, fleet
        self.socket = directory / "run" / "enclave.sock"
        (directory / "owner.key").write_bytes(fleet.owner.verify_key.raw)
        self.config = directory / "enclave.toml"
        self.config.write_text(
            f'[enclave]\nfleet = "gym"\nstate_dir = "{directory}/state"\ninsecure_seed = 5\n'
            f'socket = "{self.socket}"\nowner_key = "{directory}/owner.key"\n'
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.wire: socket.socket | None = None

    def command(self, *more: str) -> list[str]:
        return [sys.executable, "-m", "enclave.server", "--config", str(self.config), *more]

    def start(self) -> None:
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(self.command(), cwd=ROOT, stderr=log)
        self.connect()

    def connect(self) -> None:
        for _ in range(600):
            wire = socket.socket(socket.AF_UNIX)
            try:
                wire.connect(str(self.socket))
            except OSError:
                wire.close()
                time.sleep(0.02)
                continue
            wire.settimeout(30)
            if self.wire is not None:
                self.wire.close()
            self.wire = wire
            return
        raise AssertionError((self.directory / "log").read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def send(self, *messages: Message) -> None:
        assert self.wire is not None
        frames = [m.to_bytes() for m in messages]
        self.wire.sendall(b"".join(len(f).to_bytes(4, "big") + f for f in frames))

    def receive(self) -> Message:
        assert self.wire is not None
        file = self.wire.makefile("rb", buffering=0)
        data = b""
        length = int.from_bytes(self._exactly(file.read, 4), "big")
        data = self._exactly(file.read, length)
        reply = parse_any(data, *REPLIES)
        assert isinstance(reply, Message)
        return reply

    @staticmethod
    def _exactly(read: Callable[[int], bytes | None], length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = read(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def ask(self, message: Message) -> Message:
        self.send(message)
        return self.receive()

    def opened(self, round_: int = 1) -> RoundOpened:
        reply = self.ask(self.fleet.open_request(round_))
        assert isinstance(reply, RoundOpened), reply
        return reply


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    made = Fleet()
    listed = ReferenceValue("insecure_simulated", measure().measurement)
    made.manifest = replace(made.manifest, reference_values=(listed,))
    return made


@pytest.fixture
def enclave(tmp_path: Path, fleet: Fleet) -> Iterator[Enclave]:
    tmp_path.chmod(0o700)
    made = Enclave(tmp_path, fleet)
    made.start()
    yield made
    if made.wire is not None:
        made.wire.close()
    if made.process is not None and made.process.poll() is None:
        made.kill()


def test_a_round_and_a_clean_stop(enclave: Enclave, fleet: Fleet) -> None:
    standing = enclave.ask(fleet.configure())
    assert isinstance(standing, Standing)
    assert standing.measurement == measure().measurement
    opened = enclave.opened()
    admits = [fleet.admit(i, opened.claims) for i in range(4)]
    enclave.send(*admits, admits[2], Release(1), Ask())  # all at once: answered in order
    replies = [enclave.receive() for _ in range(7)]
    assert [type(r) for r in replies] == [Admitted] * 5 + [Released, Standing]
    names = [r.device for r in replies if isinstance(r, Admitted)]
    assert names == [fleet.devices[i].name for i in (0, 1, 2, 3, 2)]
    # Two workers may take the two copies in either order: one counts, the other is the repetition.
    copies = [r for r in (replies[2], replies[4]) if isinstance(r, Admitted)]
    assert sorted(copy.again for copy in copies) == [False, True]
    released = replies[5]
    assert isinstance(released, Released)
    assert isinstance(enclave.ask(fleet.open_request(2, **after(opened, released))), RoundOpened)
    assert oct(enclave.socket.stat().st_mode & 0o777) == "0o600"
    for name in slots.NAMES:
        assert oct((enclave.directory / "state" / name).stat().st_mode & 0o777) == "0o600"
    assert enclave.stop() == 0
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
        late.connect(str(enclave.socket))
    log = (enclave.directory / "log").read_text()
    assert {json.loads(line)["event"] for line in log.splitlines()} >= {"ready", "stopped"}


def test_kill_at_every_stage_gives_the_same_model(enclave: Enclave, fleet: Fleet) -> None:
    def again() -> None:
        enclave.kill()
        enclave.start()

    enclave.ask(fleet.configure())
    again()
    opened = enclave.opened()
    again()
    assert enclave.opened() == opened
    admits = [fleet.admit(i, opened.claims) for i in range(4)]
    for admit in admits[:3]:
        enclave.ask(admit)
    again()
    for admit in admits:
        assert isinstance(enclave.ask(admit), Admitted)
    enclave.send(Release(1))  # the reply is lost, or the release never happened
    time.sleep(0.01)
    again()
    reply = enclave.ask(Ask())
    assert isinstance(reply, Standing)
    if reply.released_round == 0:
        for admit in admits:
            enclave.ask(admit)
    released = enclave.ask(Release(1))
    assert isinstance(released, Released)
    again()
    assert enclave.ask(Release(1)) == released
    undisturbed = Driver(fleet)
    undisturbed.ask(fleet.configure())
    _, expected = undisturbed.run_round(fleet.open_request())
    assert (released.weights, released.state) == (expected.weights, expected.state)


def test_garbage_does_no_harm(enclave: Enclave, fleet: Fleet) -> None:
    enclave.ask(fleet.configure())
    opened = enclave.opened()
    wire = enclave.wire
    assert wire is not None
    for frame in (b"", b"\x80", b"\x83\x18\x2b", os.urandom(500), b"\x83\x18\x2b" + os.urandom(99)):
        wire.sendall(len(frame).to_bytes(4, "big") + frame)
        reply = enclave.receive()
        assert isinstance(reply, Refused)
        assert reply.reason == "malformed"
    big = b"\x83\x18\x2b" + bytes(5_000_000)  # an update far longer than any for this model
    wire.sendall(len(big).to_bytes(4, "big") + big)
    reply = enclave.receive()
    assert isinstance(reply, Refused)
    assert reply.reason == "too_large"
    wire.sendall(b"\xff\xff\xff\xff123")  # no frame of ours: hung up
    with pytest.raises((EOFError, ConnectionError)):
        enclave.receive()
    for cut in (b"\0", b"\0\0\x01\0abc"):
        enclave.connect()
        assert enclave.wire is not None
        enclave.wire.sendall(cut)
    enclave.connect()
    for i in range(4):
        assert isinstance(enclave.ask(fleet.admit(i, opened.claims)), Admitted)
    assert isinstance(enclave.ask(Release(1)), Released)


def test_a_new_connection_replaces_the_old(enclave: Enclave, fleet: Fleet) -> None:
    enclave.ask(fleet.configure())
    opened = enclave.opened()
    old, enclave.wire = enclave.wire, None
    enclave.connect()
    assert isinstance(enclave.ask(fleet.admit(0, opened.claims)), Admitted)
    assert old is not None
    old.settimeout(10)
    assert old.recv(1) == b""
    old.close()


def test_one_enclave_a_directory_and_strict_configuration(enclave: Enclave) -> None:
    def run(*more: str) -> tuple[int, str]:
        done = subprocess.run(
            enclave.command(*more), cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr

    code, log = run()
    assert code == 1
    assert "another enclave" in log
    assert enclave.stop() == 0
    code, log = run("--check")
    assert code == 0
    assert json.loads(log)["secure"] is False
    enclave.config.write_text(enclave.config.read_text() + "colour = 1\n")
    code, log = run()
    assert code == 78
    assert "colour" in log


def test_nobody_else_of_this_user_reads_its_memory() -> None:
    code = (
        "import ctypes, enclave.hardening as h; h.close_memory(); "
        "raise SystemExit(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_it_forbids_core_dumps(enclave: Enclave) -> None:
    assert enclave.process is not None
    limits = Path(f"/proc/{enclave.process.pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    enclave.process.send_signal(signal.SIGINT)
    assert enclave.process.wait(30) == 0
