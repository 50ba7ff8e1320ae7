"""`qflare token` and `qflare enrol`, and the files and settings that they stand on."""

import json
import os
import stat
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator import daemon
from coordinator.config import EnrolmentSection
from coordinator.database import migrate
from coordinator.database.store import connect
from coordinator.enrolment.command import parse_life
from coordinator.enrolment.keyring import FILE, Keyring, read_secret
from coordinator.enrolment.register import Register, prepare
from coordinator.enrolment.setup import load_signer, load_terms
from qflare import cli
from qflare.crypto.issuing import issue_ca
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import parse_ticket
from qflare.faults import LocalFault
from qflare.host.config import ConfigFault
from qflare.host.files import take_lock
from qflare.host.typed import parse
from qflare.names import DeviceId
from tests.enrol_kit import Home, new_world
from tests.unit.coordinator_rig import FLEET
from tests.unit.enrol_desk import KEYS
from tests.unit.enrol_desk import request as request_of

_WORLD = new_world()
Run = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "co", _WORLD)
    made.write(None)
    return made


@pytest.fixture
def qflare(home: Home, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: its JSON, its text, or its complaint."""

    def run(*words: str, code: int = 0, text: bool = False) -> Any:
        more = ["--config", str(home.config_file), *([] if text else ["--json"])]
        assert cli.main([*words, *more]) == code
        captured = capsys.readouterr()
        if code:
            return captured.err
        return captured.out if text else json.loads(captured.out)

    return run


def test_tickets_are_made_listed_and_revoked(home: Home, qflare: Run, tmp_path: Path) -> None:
    out = tmp_path / "tickets"
    made = qflare("token", "new", "--count", "3", "--expires", "14d", "--out", str(out))
    files = [Path(one["file"]) for one in made]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    now = time.time()
    tickets = [parse_ticket(path.read_bytes(), _WORLD.owner.verify_key.raw, now) for path in files]
    assert len({ticket.terms.secret for ticket in tickets}) == 3
    assert all(abs(ticket.expires_at - now - 14 * 86_400) < 60 for ticket in tickets)
    assert tickets[0].brokers == ("mqtt://127.0.0.1:2",)  # where tickets are let in
    bound = qflare("token", "new", "--name", "pump-7", "--board", "rpi4", "--out", str(out))
    assert bound[0]["file"].startswith(str(out / "pump-7-"))
    table = qflare("token", "list", text=True)
    assert [line.split()[1] for line in table.splitlines()] == ["state", *["open"] * 4]
    token = made[1]["token"]
    assert qflare("token", "revoke", token[:10]) == {token: "revoked"}
    assert [row["state"] for row in qflare("token", "list")].count("revoked") == 1
    assert qflare("enrol", "list") == []
    database = (home.path / "state" / "coordinator.db").read_bytes()
    for ticket in tickets:  # a stolen database gives no ticket away
        assert ticket.terms.secret not in database
        assert ticket.terms.password.encode() not in database


def test_the_operator_approves_by_name_and_by_ticket(
    home: Home, qflare: Run, tmp_path: Path
) -> None:
    made = qflare("token", "new", "--count", "2", "--out", str(tmp_path / "t"))
    register = Register(prepare(home.path / "state"))
    for one, keys, name in zip(made, KEYS, ("pump-7", "pump-8"), strict=False):
        data = Path(one["file"]).read_bytes()
        ticket = parse_ticket(data, _WORLD.owner.verify_key.raw, time.time())
        asked = replace(request_of(ticket, keys), name=DeviceId(name))
        register.settle(asked, time.time(), auto=False, issue=lambda: pytest.fail("too early"))
    rows = qflare("enrol", "list")
    assert [row["state"] for row in rows] == ["awaiting", "awaiting"]
    assert all(len(row["words"].split()) == 6 for row in rows)
    assert qflare("enrol", "approve", "pump-7") == {"pump-7": "approved"}
    second = next(row["token"] for row in rows if row["name"] == "pump-8")
    assert qflare("enrol", "refuse", second[:12]) == {"pump-8": "denied"}
    assert "meanwhile" in qflare("enrol", "approve", "pump-8", code=1)
    assert "meanwhile" in qflare("enrol", "revoke", "pump-7", code=1)
    assert "no device has that name" in qflare("enrol", "approve", "pump-9", code=1)
    assert f"was used by {rows[0]['name']}" in qflare("token", "revoke", rows[0]["token"], code=1)
    register.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--expires", "0h"), "--expires"),
        (("--expires", "400d"), "--expires"),
        (("--expires", "24"), "--expires"),
        (("--count", "0"), "--count"),
        (("--count", "2", "--name", "a"), "one name"),
        (("--name", "A b"), "DeviceId"),
        (("--name", "enrol"), "reserved"),
        (("--board", "RPi 4"), "board"),
        (("--serial", "x y"), "serial"),
    ],
    ids=str,
)
def test_what_makes_no_ticket(
    home: Home, qflare: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "t"
    assert said in qflare("token", "new", "--out", str(out), *words, code=1)
    assert list(out.glob("*")) == []
    if (home.path / "state" / "coordinator.db").exists():
        assert qflare("token", "list") == []


def test_without_the_section_and_without_the_file(home: Home, qflare: Run) -> None:
    text = home.config_file.read_text()
    home.config_file.write_text(text.split("[enrolment]")[0])
    assert "no [enrolment]" in qflare("token", "new", code=78)
    home.config_file.unlink()
    assert "no such file" in qflare("token", "new", code=78)


def test_lives() -> None:
    assert [parse_life(text) for text in ("30m", "24h", "14d")] == [1800, 86_400, 1_209_600]


# --- the key file ------------------------------------------------------------------------------


def test_the_key_file_is_made_once_and_missed_when_it_is_gone(home: Home, qflare: Run) -> None:
    qflare("token", "new", "--out", str(home.path / "t"))
    path = home.path / "state" / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_bytes()
    qflare("token", "new", "--out", str(home.path / "t"))
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.glob(f".{FILE}*")] == []
    path.chmod(0o640)
    assert "chmod 600" in qflare("token", "new", code=1)
    path.unlink()
    assert "restore it" in qflare("token", "new", code=1)
    assert not path.exists()


def test_two_processes_make_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def late(source: Any, target: Any) -> None:
        if not Path(target).exists():
            Path(target).write_bytes(b"o" * 32)  # the other one was quicker
            Path(target).chmod(0o600)
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    Keyring.load(tmp_path, new=True)
    assert (tmp_path / FILE).read_bytes() == b"o" * 32


def test_secrets_differ_by_what_they_are_for() -> None:
    ring, other = Keyring(bytes(32)), Keyring(b"x" * 32)
    token = bytes(16)
    name = DeviceId("pump-7")
    made = {
        ring.token_secret(token),
        ring.token_secret(b"y" * 16),
        other.token_secret(token),
    }
    assert len(made) == 3
    passwords = {
        ring.token_password(token),
        ring.device_password(token, name),
        ring.device_password(token, DeviceId("pump-8")),
        ring.device_password(b"y" * 16, name),
    }
    assert len(passwords) == 4
    assert Keyring(bytes(32)).device_password(token, name) == ring.device_password(token, name)


def test_a_key_of_another_length(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(LocalFault, match="5 bytes"):
        read_secret(path, 32)


# --- the configuration -------------------------------------------------------------------------


def test_check_looks_at_the_device_ca(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(home.config_file), "--check"]
    assert daemon.main(arguments) == 0
    other, other_der = issue_ca(FLEET, DEFAULT, _WORLD.began, 10)
    good_key, good_der = (home.path / "ca.seed"), (home.path / "ca.der")
    for path, content, said in (
        (good_key, other.to_seed(), "don't belong together"),
        (good_der, b"x", "X.509"),
    ):
        kept = path.read_bytes()
        path.write_bytes(content)
        assert daemon.main(arguments) == 78
        assert said in capsys.readouterr().err
        path.write_bytes(kept)
    good_key.write_bytes(other.to_seed())
    good_der.write_bytes(other_der)
    assert daemon.main(arguments) == 78
    assert "not issued by a CA of this fleet" in capsys.readouterr().err
    good_key.chmod(0o644)
    assert daemon.main(arguments) == 78
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("approve = ", 'approve = "maybe"', "enrolment"),
        ("ticket_accounts = ", "", "ticket_accounts"),
        ("brokers = ", 'brokers = ["http://x"]', "broker address"),
        ("broker_kind = ", 'broker_kind = "hive"', "enrolment"),
        ("approve = ", 'approve = "auto"\nbroker_ca = "{home}/key"', "no PEM"),
        ("approve = ", 'approve = "auto"\ncertificate_days = 0', "enrolment"),
    ],
    ids=str,
)
def test_settings_that_are_wrong(
    home: Home, line: str, instead: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = home.config_file.read_text().splitlines()
    at = next(i for i, text in enumerate(lines) if text.startswith(line))
    lines[at] = instead.replace("{home}", str(home.path))
    home.config_file.write_text("\n".join(lines))
    assert daemon.main(["--config", str(home.config_file), "--check"]) == 78
    assert said in capsys.readouterr().err


def test_the_documented_section_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "enrolment.md").read_text()
    block = page.split("```toml\n")[1].split("```")[0]
    given = parse(EnrolmentSection, tomllib.loads(block)["enrolment"])
    assert given.ticket_brokers == ("mqtts://broker.example:8884",)
    assert given.reload == ("systemctl", "reload", "mosquitto")


def test_an_expired_ca_is_noticed_when_it_starts(home: Home) -> None:
    signer = load_signer(home.config)
    load_terms(home.config, signer, time.time())
    with pytest.raises(ConfigFault, match="expired"):
        load_terms(home.config, signer, time.time() + 200 * 86_400)


# --- the database ------------------------------------------------------------------------------


def test_an_older_database_is_migrated_unless_a_daemon_has_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    engine = connect(state / "coordinator.db")
    migrate.upgrade(engine, "0002")
    engine.dispose()
    lock = take_lock(state / "coordinator.lock", "busy")
    with pytest.raises(LocalFault, match="restart it"):
        prepare(state)
    os.close(lock)
    register = Register(prepare(state))
    assert register.empty()
    lock = take_lock(state / "coordinator.lock", "busy")  # now it runs beside the daemon
    assert prepare(state) == state / "coordinator.db"
    os.close(lock)
    register.close()


def test_the_version_changes_with_every_process_that_writes(home: Home, qflare: Run) -> None:
    register = Register(prepare(home.path / "state"))
    before = register.version()
    assert register.version() == before
    (made,) = qflare("token", "new", "--out", str(home.path / "t"))
    after = register.version()
    assert after != before
    qflare("token", "revoke", made["token"])
    assert register.version() != after
    register.close()
