"""Real environments by real pip, the trial's judgement, and the commands."""

import json
import socket
import threading
from pathlib import Path

import pytest

from edge_runtime.upgrade.apply import Upgrade, install_first
from edge_runtime.upgrade.health import HealthNote, read_health
from edge_runtime.upgrade.places import Places
from edge_runtime.upgrade.status import update_status
from edge_runtime.upgrade.trial import Clock, SystemdTrial
from qflare.cli import main
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import write_atomic
from tests.upgrade_kit import FLEET, OWNER, Board, bundle_of, daemon_wheels, manifest_of


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.later: list[tuple[float, object]] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for at, what in list(self.later):
            if self.now >= at:
                self.later.remove((at, what))
                what()  # type: ignore[operator]

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)


def judge(state: Path, time: Time, brokers: tuple[str, ...] = ()) -> str:
    return SystemdTrial(state, brokers, (), 600.0, time.clock).judge("1.1.0")


def note(state: Path, time: Time, version: str = "1.1.0") -> HealthNote:
    return HealthNote(state, version, lambda: time.now)


@pytest.fixture
def port() -> "object":
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept(), daemon=True).start()
        yield server.getsockname()[1]


def test_a_daemon_that_reached_the_broker_and_lasted_is_good(tmp_path: Path) -> None:
    time = Time()
    note(tmp_path, time).online()
    assert judge(tmp_path, time) == ""
    assert 1029 <= time.now <= 1032


def test_one_that_starts_again_and_again_is_not(tmp_path: Path) -> None:
    time = Time()

    def again() -> None:
        note(tmp_path, time).online()
        time.later.append((time.now + 20, again))

    again()
    assert "again and again" in judge(tmp_path, time)


def test_one_that_says_nothing_or_is_the_old_one_is_not(tmp_path: Path) -> None:
    time = Time()
    assert "wasn't ready" in judge(tmp_path, time)
    note(tmp_path, time, "1.0.0").online()
    assert "wasn't ready" in judge(tmp_path, time)


def test_offline_is_the_release_s_fault_only_if_the_broker_answers(
    tmp_path: Path, port: int
) -> None:
    time = Time()
    note(tmp_path, time).ready()
    assert "though the broker answers" in judge(tmp_path, time, (f"mqtt://127.0.0.1:{port}",))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        away = f"mqtt://127.0.0.1:{unused.getsockname()[1]}"
        assert judge(tmp_path, time, (away,)) == ""


def test_the_note_is_written_twice_at_most_and_read_with_suspicion(tmp_path: Path) -> None:
    time = Time()
    said = note(tmp_path, time)
    path = tmp_path / "update/healthy"
    said.ready()
    first = path.stat().st_ino
    said.ready()
    assert path.stat().st_ino == first
    said.online()
    second = path.stat().st_ino
    said.online()
    said.ready()
    assert path.stat().st_ino == second
    found = read_health(tmp_path)
    assert found is not None
    assert (found.version, found.online) == ("1.1.0", True)
    for garbage in (b"", b"{}", b"[" * 4000, bytes(5000)):
        write_atomic(path, garbage)
        assert read_health(tmp_path) is None


def test_a_daemon_without_room_for_its_note_works_on(tmp_path: Path) -> None:
    (tmp_path / "update").write_text("in the way")
    note(tmp_path, Time()).online()
    assert read_health(tmp_path) is None


# --- with pip


def first_version(board: Board, here: Path) -> Places:
    wheels = daemon_wheels(here / "w1", "1.0.0")
    path = here / "first.qflare"
    path.write_bytes(bundle_of(manifest_of(wheels, "1.0.0", 1), wheels))
    places = Places(board.opt)
    install_first(path, places, OWNER.verify_key, None, lambda _: None)
    return places


class Good:
    def restart(self) -> str:
        return ""

    def judge(self, version: str) -> str:
        return ""


@pytest.mark.slow
def test_a_release_is_installed_from_its_wheels_and_starts(tmp_path: Path) -> None:
    board = Board(tmp_path)
    places = first_version(board, tmp_path)
    assert places.linked("current") == places.linked("proven") == "1.0.0"
    venv = places.of("1.0.0")
    assert not list(venv.rglob("pip/__init__.py"))
    assert list(venv.rglob("edge_runtime_tiny.*opt-2.pyc"))
    wheels = daemon_wheels(tmp_path / "w2", "1.1.0")
    board.stage(bundle_of(manifest_of(wheels, "1.1.0", 2), wheels))
    said: list[str] = []
    assert Upgrade(places, board.device(), Good(), said.append).run(), said
    assert places.linked("current") == "1.1.0"
    status = update_status(board.opt, board.state)
    assert (status.current, status.previous, status.sequence) == ("1.1.0", "1.0.0", 2)
    assert status.counters()[2] == ("update_sequence", 2)
    with pytest.raises(LocalFault, match="installed already"):
        first_version(board, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["check", "incomplete", "name", "room"])
def test_a_release_that_does_not_install_or_start_changes_nothing(
    tmp_path: Path, trouble: str
) -> None:
    board = Board(tmp_path)
    places = first_version(board, tmp_path)
    config = tmp_path / "edge.toml"
    config.write_text("")
    check = 'sys.exit("edge.toml: I don\'t like it")' if trouble == "check" else "pass"
    wheels = daemon_wheels(tmp_path / "w2", "1.1.0", check)
    if trouble == "name":  # the wheel of another version under a new name
        (tmp_path / "w2" / "qflare-1.1.0-py3-none-any.whl").write_bytes(
            (tmp_path / "w1" / "qflare-1.0.0-py3-none-any.whl").read_bytes()
        )
    if trouble == "incomplete":
        wheels = wheels[1:]
    room = 2**39 if trouble == "room" else 1
    board.stage(bundle_of(manifest_of(wheels, "1.1.0", 2, needs_bytes=room), wheels))
    said: list[str] = []
    assert not Upgrade(places, board.device(config), Good(), said.append).run()
    words = {"check": "like it", "incomplete": "helper", "name": "1.1.0", "room": "make room"}
    assert words[trouble] in places.ledger().last
    assert places.linked("current") == "1.0.0"
    assert [path.name for path in places.versions.iterdir()] == ["1.0.0"]
    assert places.job() is None


def test_a_version_that_was_made_by_hand_is_adopted_if_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Places(tmp_path)
    adopt = ["device", "update", "adopt", "--sequence", "3", "--opt", str(tmp_path)]
    assert main(adopt) == 1
    program = places.of("1.0.0") / "bin/qflare-edge"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho qflare 0.9.9\n")
    program.chmod(0o755)
    places.point("current", "1.0.0")
    assert main(adopt) == 1
    assert "calls itself" in capsys.readouterr().err
    assert places.complete("1.0.0") is None
    program.write_text("#!/bin/sh\necho qflare 1.0.0\n")
    assert main(adopt) == main(adopt) == 0
    assert places.linked("proven") == "1.0.0"
    assert places.lowest() == 3


# --- the commands


def enrolled(board: Board) -> Path:
    board.state.mkdir()
    (board.here / "owner.key").write_bytes(OWNER.verify_key.raw)
    config = board.here / "edge.toml"
    config.write_text(
        f'[device]\nfleet = "{FLEET}"\nname = "dev-1"\nstate_dir = "state"\n'
        'owner_key = "owner.key"\nlater = true\n[broker]\nurl = "mqtt://127.0.0.1:1"\n'
    )
    return config


@pytest.mark.slow
def test_an_owner_builds_and_a_device_stages_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(tmp_path)
    config = enrolled(board)
    daemon_wheels(tmp_path / "w", "1.1.0")
    daemon_wheels(tmp_path / "w", "1.0.0")  # which stays out
    seed, out = tmp_path / "owner.seed", tmp_path / "new.qflare"
    seed.write_bytes(OWNER.to_seed())
    seed.chmod(0o600)
    manifest = manifest_of(daemon_wheels(tmp_path / "x", "1.1.0"), "1.1.0", 4)
    build = [
        *("release", "build", "--wheels", str(tmp_path / "w"), "--version", "1.1.0"),
        *("--sequence", "4", "--key", str(seed), "--fleet", str(FLEET), "-o", str(out)),
        *("--python", manifest.python, "--machine", str(manifest.machine)),
    ]
    assert main(build) == 0
    capsys.readouterr()
    assert (
        main(["release", "show", str(out), "--owner", str(tmp_path / "owner.key"), "--json"]) == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert sorted(shown["wheels"]) == [
        "helper-1.0-py3-none-any.whl",
        "qflare-1.1.0-py3-none-any.whl",
    ]
    assert (shown["sequence"], shown["signature"]) == (4, "good")
    stage = ["device", "update", "stage", "--config", str(config), "--opt", str(board.opt)]
    assert main([*stage, str(out)]) == 0
    assert board.staged() == ["1.1.0-4.qflare"]
    damaged = bytearray(out.read_bytes())
    damaged[-1200] ^= 1
    out.write_bytes(damaged)
    assert main([*stage, str(out)]) == 1
    assert "refused" in capsys.readouterr().err
    show = ["device", "update", "show", "--config", str(config), "--opt", str(board.opt)]
    assert main([*show, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["staged"] == 1


def test_only_the_owner_s_bundle_is_staged(tmp_path: Path) -> None:
    from qflare.host.bundle import read_manifest
    from tests.upgrade_kit import STRANGER

    wheels = daemon_wheels(tmp_path / "w", "1.1.0")
    path = tmp_path / "b.qflare"
    path.write_bytes(bundle_of(manifest_of(wheels, "1.1.0", 2), wheels, STRANGER))
    with path.open("rb") as file, pytest.raises(PeerFault):
        read_manifest(file, OWNER.verify_key)
