"""`qflare doctor`: every check says what it found, and none can break the page."""

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.doctor import broker, identity, page, place, service, work
from edge_runtime.doctor.finding import Finding, State, bad, examine, ok, split, warn
from edge_runtime.upgrade.health import HealthNote
from edge_runtime.upgrade.places import Bad, Complete, Job, Ledger, Places
from qflare import __version__
from qflare.cli import main
from qflare.faults import LocalFault, PeerFault, Reason

_DIGEST = "0" * 64


def states(findings: "object") -> dict[str, State]:
    return {finding.name: finding.state for finding in findings}  # type: ignore[attr-defined]


# --- the frame


def test_a_check_that_fails_is_red_with_its_reason_and_the_others_go_on() -> None:
    def broken() -> Finding:
        raise ZeroDivisionError("by\nnought")

    def refused() -> Finding:
        raise PeerFault(Reason.MALFORMED, "no such thing")

    def known() -> Finding:
        raise LocalFault("the disk is full; make room")

    def half() -> "object":
        yield ok("first", "fine")
        raise OSError("gone")

    checks = [("a", broken), ("b", refused), ("c", known), ("d", half), ("e", lambda: ok("e", "x"))]
    found = list(examine(checks))  # type: ignore[arg-type]
    assert [(f.name, f.state) for f in found] == [
        *(("a", State.BAD), ("b", State.BAD), ("c", State.BAD), ("d", State.BAD), ("e", State.OK)),
    ]
    assert "ZeroDivisionError: by nought" in found[0].words
    assert (found[2].words, found[2].remedy) == ("the disk is full", "make room")
    assert all(finding.remedy for finding in found if finding.state is State.BAD)


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_nobody_writes_escapes_or_lines_onto_the_page(name: str, words: str, remedy: str) -> None:
    shown = page.line(bad(name, words, remedy), colour=False)
    assert "\x1b" not in shown
    first, *rest = shown.split("\n")
    assert first.startswith("BAD")
    assert all(line.startswith(" " * 20) for line in rest if line)
    assert len(shown.splitlines()) <= 1 + len(rest)  # whatever else may end a line


def test_the_page_has_a_line_each_a_remedy_below_and_a_sum() -> None:
    found = [
        ok("disk", "12 GB free"),
        warn("clock", "unsure", "let NTP through"),
        bad("x", "y", "z"),
    ]
    assert page.line(found[0], False) == f"ok    {'disk':16} 12 GB free"
    assert page.line(found[1], False).endswith("-> let NTP through")
    assert page.line(found[2], True).startswith("\x1b[1;31mBAD")
    assert page.total(found) == "1 bad, 1 to be mended, 1 ok"
    assert page.total(found[:1]) == "all is well: 1 checks"
    assert json.loads(page.as_json(found))["ok"] is False
    assert json.loads(page.as_json(found[:2]))["ok"] is True


def test_a_fault_without_a_remedy_is_still_a_finding() -> None:
    assert split("n", "just this").remedy
    assert split("n", "").remedy


# --- the checks


def certificate(days_before: int, days: int) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev-1")])
    start = datetime(2026, 12, 1, tzinfo=UTC) - timedelta(days=days_before)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7).not_valid_before(start)
    return (
        made.not_valid_after(start + timedelta(days=days))
        .sign(key, None)
        .public_bytes(Encoding.DER)
    )


@pytest.mark.parametrize(
    ("before", "days", "state", "words"),
    [
        (10, 365, State.OK, "355 days"),
        (10, 30, State.OK, "20 days"),
        (26, 30, State.WARN, "4 days"),
        (10, 5, State.BAD, "ended"),
        (-3, 30, State.BAD, "isn't valid before"),
    ],
)
def test_a_certificate_s_days_are_counted(before: int, days: int, state: State, words: str) -> None:
    found = identity.check_validity(certificate(before, days), datetime(2026, 12, 1, tzinfo=UTC))
    assert found.state is state
    assert words in found.words


def test_a_state_directory_that_others_can_open_is_red(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o755)
    found = list(place.check_disk(tmp_path / "s"))
    assert found[0].state is State.BAD
    assert "chmod 700" in found[0].remedy
    (tmp_path / "s").chmod(0o700)
    assert all(f.name != "state" for f in place.check_disk(tmp_path / "s"))
    assert states(place.check_disk(tmp_path / "none")) == {"state": State.SKIPPED}


def test_32_bit_user_space_is_red() -> None:
    assert place.check_bits("aarch64", 8).state is State.OK
    assert place.check_bits("aarch64", 4).state is State.BAD
    assert place.check_bits("armv7l", 4).state is State.BAD


def facts(**changed: str) -> dict[str, str]:
    known = {
        "LoadState": "loaded",
        "UnitFileState": "enabled",
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
        "NRestarts": "0",
        "ExecMainStatus": "0",
        "StatusText": "waiting for a round; online",
    }
    return known | changed


def test_the_unit_s_standing_is_told() -> None:
    def of(**changed: str) -> dict[str, State]:
        return states(service.check_unit("u.service", facts(**changed)))

    assert of() == {"service": State.OK}
    assert of(UnitFileState="disabled")["service"] is State.OK
    assert next(service.check_unit("u", facts(UnitFileState="disabled"))).state is State.WARN
    assert of(NRestarts="4")["restarts"] is State.WARN
    assert of(LoadState="not-found") == {"service": State.BAD}
    failed = facts(ActiveState="failed", SubState="failed", ExecMainStatus="78")
    (found,) = service.check_unit("u", failed)
    assert "configuration is wrong" in found.words
    (found,) = service.check_unit("u", facts(ActiveState="failed", Result="watchdog"))
    assert "watchdog" in found.words
    assert states(service.check_unit("u", None)) == {"service": State.SKIPPED}


def test_updates_are_told(tmp_path: Path) -> None:
    opt, state = tmp_path / "opt", tmp_path / "state"
    assert states(service.check_version(opt, state)) == {"version": State.OK}
    places = Places(opt)
    places.prepare()
    places.of("9.9.9").mkdir()
    places.finish(Complete(version="9.9.9", sequence=3))
    places.point("current", "9.9.9")
    places.write_ledger(Ledger(bad=(Bad(digest=_DIGEST, version="10.0", why="hung"),)))
    found = {f.name: f for f in service.check_version(opt, state)}
    assert __version__ in found["version"].words
    assert "10.0 failed here: hung" in found["update"].words
    places.write_job(
        Job(format=1, phase="trying", digest=_DIGEST, version="10.1", sequence=5, previous="9.9.9")
    )
    found = {f.name: f for f in service.check_version(opt, state)}
    assert "trying 10.1" in found["update"].words


def test_a_daemon_that_runs_is_known_by_its_note(tmp_path: Path) -> None:
    assert not service.alive(tmp_path)
    HealthNote(tmp_path).ready()
    assert service.alive(tmp_path)


def test_the_data_s_problems_become_findings() -> None:
    good = {"kind": "csv", "model": "m", "examples": {"train": 5, "test": 2}, "problems": []}
    assert states(work._of_report(good)) == {"data": State.OK}
    (found,) = work._of_report(good | {"problems": ["port gone; plug it in"]})
    assert (found.state, found.remedy) == (State.BAD, "plug it in")


# --- the command


def configured(here: Path, url: str) -> Path:
    from qflare.crypto.keys import SigningKey
    from qflare.crypto.suites import DEFAULT

    (here / "device.seed").write_bytes(b"d" * 32)
    (here / "device.seed").chmod(0o644)
    key = SigningKey.from_seed(DEFAULT, b"d" * 32)
    (here / "device.der").write_bytes(key.verify_key.raw)
    (here / "owner.key").write_bytes(key.verify_key.raw)
    (here / "edge.toml").write_text(
        '[device]\nfleet = "yard"\nname = "dev-1"\nstate_dir = "state"\nkey = "device.seed"\n'
        f'certificate = "device.der"\nowner_key = "owner.key"\n[broker]\nurl = "{url}"\n'
        '[data]\npath = "nothing.npz"\n'
    )
    return here / "edge.toml"


def doctor(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, dict[str, str]]]:
    opt = str(config.parent / "opt")
    code = main(["doctor", "--quick", "--json", "--config", str(config), "--opt", opt])
    shown = json.loads(capsys.readouterr().out)
    return code, {finding["name"]: finding for finding in shown["findings"]}


def test_a_device_with_all_kinds_of_trouble_gets_a_whole_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        url = f"mqtt://127.0.0.1:{unused.getsockname()[1]}"
        code, found = doctor(configured(tmp_path, url), capsys)
    assert code == 1
    assert found["configuration"]["state"] == "ok"
    assert found["keys"]["state"] == "bad"  # the certificate is none
    assert found["secrets"]["remedy"].startswith("sudo chmod 600")
    assert found[f"broker {url}"]["state"] == "bad"
    assert found["data"]["state"] == "bad"
    assert found["state"]["state"] == "skipped"
    assert all(finding["remedy"] for finding in found.values() if finding["state"] == "bad")
    assert not any("Traceback" in finding["words"] for finding in found.values())


def test_without_a_configuration_the_board_is_looked_at_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = doctor(tmp_path / "edge.toml", capsys)
    assert code == 1
    assert found["configuration"]["state"] == "bad"
    assert "board" in found
    assert "service" in found


def test_a_broker_that_answers_is_not_bothered_while_the_daemon_runs(tmp_path: Path) -> None:
    import os

    from edge_runtime.config import load

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        config = load(configured(tmp_path, url), os.environ).value
        (found,) = broker.check_brokers(config, running=True)
    assert found.state is State.OK
    assert "TCP" in found.words
    assert "the daemon has the account in use" in found.words
