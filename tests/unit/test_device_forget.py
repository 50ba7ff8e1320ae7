"""`qflare device forget`: what goes, what stays, and in which order."""

import json
import os
import secrets
from pathlib import Path

import pytest

from edge_runtime.provision.system import System
from edge_runtime.storage import forget as forgetting
from edge_runtime.storage.forget import Plan, forget
from edge_runtime.storage.opening import StorageSection, open_store
from edge_runtime.storage.sealing import SEAL, OwnerKey, OwnerKeys
from edge_runtime.store import Store
from qflare.cli import main
from qflare.faults import LocalFault
from qflare.host.config import ConfigFault
from qflare.host.files import take_lock
from qflare.names import Digest
from tests.unit.test_edge_store import commit

EDGE = """\
[device]
fleet = "yard"
name = "dev-1"
state_dir = "state"
key = "device.seed"
certificate = "device.der"
owner_key = "owner.key"

[broker]
url = "mqtt://localhost"
password_file = "broker.password"

[data]
path = "samples.npz"
"""
PRIVATE = ("device.seed", "device.der", "broker.password", "enrolled.json", "enrolling")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The folder of a device that has answered round 2, with its key for encryption."""
    (tmp_path / "edge.toml").write_text(EDGE + '\n[storage]\nkey_file = "storage.key"\n')
    (tmp_path / "storage.key").write_bytes(secrets.token_bytes(32))
    for name in (*PRIVATE, "owner.key", "samples.npz"):
        (tmp_path / name).write_bytes(b"of dev-1")
    store = open_store(tmp_path / "state", StorageSection(key_file=tmp_path / "storage.key"), {})
    store.load()
    store.commit(commit(2))
    store.blobs.write(Digest.of(b"model"), b"model")
    (tmp_path / "state" / "ring").mkdir()
    (tmp_path / "state" / "ring" / "segment").write_bytes(b"samples")
    store.close()
    return tmp_path


def run(device: Path, *options: str) -> int:
    return main(["device", "forget", "--config", str(device / "edge.toml"), *options])


def test_everything_of_this_device_goes(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(device, "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["identity"] == "erased"
    assert told["kept"] == [str(device / "samples.npz")]
    kinds = [it["kind"] for it in told["erased"]]
    assert kinds == sorted(kinds, key=["key", "identity", "state"].index)  # keys first
    assert told["erased"][0]["path"] == str(device / "state" / SEAL)
    encrypted = {Path(it["path"]).name for it in told["erased"] if it["encrypted"]}
    assert {"device.sqlite", "guard"} <= encrypted
    left = {path.name for path in device.iterdir()}
    assert left == {"edge.toml", "owner.key", "samples.npz"}
    assert run(device, "--yes") == 0
    assert "nothing was left" in capsys.readouterr().out


def test_samples_elsewhere_go_only_when_asked(device: Path) -> None:
    assert run(device, "--yes", "--data") == 0
    assert not (device / "samples.npz").exists()


def test_a_device_that_stays_enrolled_still_knows_what_it_answered(device: Path) -> None:
    assert run(device, "--yes", "--keep-identity") == 0
    assert all((device / name).exists() for name in (*PRIVATE, "storage.key"))
    assert {path.name for path in (device / "state").iterdir()} == {"guard", "lock"}
    store = open_store(device / "state", StorageSection(key_file=device / "storage.key"), {})
    past = store.load()
    assert past.memory == commit(2).memory
    assert (past.outbox, past.journal, past.blobs) == ((), (), frozenset())
    assert store.residual() is None
    store.close()
    assert commit(2).memory.to_bytes() not in (device / "state" / "guard").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to another user needs root")
@pytest.mark.parametrize("keep", [False, True], ids=["all", "keep identity"])
def test_root_erases_for_the_daemons_user(device: Path, keep: bool) -> None:
    """As `sudo qflare device forget` does where the daemon has a user of its own."""
    state = device / "state"
    for path in (state, *state.rglob("*")):
        os.chown(path, 65534, 65534)
    assert run(device, "--yes", *(["--keep-identity"] if keep else [])) == 0
    left = [] if not state.exists() else [state, *state.rglob("*")]
    assert all(path.stat().st_uid == 65534 for path in left)
    assert {path.name for path in left} == ({"state", "guard", "lock"} if keep else set())


def test_it_asks(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Answer("yes\n"))
    assert run(device) == 1
    assert (device / "state" / SEAL).exists()
    monkeypatch.setattr("sys.stdin", Answer("dev-1\n"))
    assert run(device) == 0
    assert not (device / "state").exists()


class Answer:
    def __init__(self, line: str) -> None:
        self._line = line

    def readline(self) -> str:
        return self._line


def test_it_refuses_while_the_daemon_runs(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(device / "state", StorageSection(key_file=device / "storage.key"), {})
    assert run(device, "--yes") == 1
    assert "stop the daemon" in capsys.readouterr().err
    store.close()
    assert (device / "state" / SEAL).exists()
    assert (device / "device.seed").exists()


def test_it_refuses_while_samples_are_collected(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = take_lock(device / "state" / "ring" / "lock", "")
    assert run(device, "--yes") == 1
    assert "stop what works there" in capsys.readouterr().err
    assert (device / "state" / SEAL).exists()
    os.close(lock)
    assert run(device, "--yes") == 0


def test_a_lost_key_hinders_no_full_erasure(device: Path) -> None:
    (device / "storage.key").unlink()
    assert run(device, "--yes", "--keep-identity") == 78  # the guard can't be read
    assert (device / "state" / SEAL).exists()
    assert run(device, "--yes") == 0
    assert not (device / "state").exists()


class _Cut(BaseException):
    pass


@pytest.mark.parametrize("keep", [False, True], ids=["all", "keep identity"])
@pytest.mark.parametrize("after", range(9))
def test_cut_anywhere_and_run_again(
    device: Path, monkeypatch: pytest.MonkeyPatch, after: int, keep: bool
) -> None:
    """Half erased, it doesn't start; the next run ends what was begun."""
    real, count = forgetting._remove, 0

    def remove(path: Path, overwrite: bool) -> None:
        nonlocal count
        if count == after:
            raise _Cut
        count += 1
        real(path, overwrite)

    options = ["--yes", *(["--keep-identity"] if keep else [])]
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "_remove", remove)
        try:
            run(device, *options)
        except _Cut:
            with pytest.raises(ConfigFault, match="half erased"):
                Store(device / "state")
    assert run(device, *options) == 0
    if not keep:
        assert {path.name for path in device.iterdir()} == {"edge.toml", "owner.key", "samples.npz"}
        return
    store = open_store(device / "state", StorageSection(key_file=device / "storage.key"), {})
    assert store.load().memory == commit(2).memory
    store.close()


def test_what_cant_be_removed_is_named(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    plan = Plan(device / "state", identity=(device / "device.seed",))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(LocalFault, match="run this again"):
            forget(plan)
    owner = OwnerKeys(OwnerKey.read(device / "storage.key"))
    assert forget(plan, owner)
    assert forget(plan) == []


SERIAL = """
[data]
kind = "serial"
path = "{ring}"
channels = [{{ name = "v" }}]
format.fields = ["v"]
serial.port = "/dev/null"
label = {{ origin = "file", file = "labels.csv" }}
mqtt.password_file = "mqtt.password"

[serving]
directory = "models"

[log]
file = "edge.log"
"""


@pytest.fixture
def spread(device: Path) -> Path:
    """The same device, whose samples, models and log lie elsewhere, beside what isn't its own."""
    text = EDGE.split("[data]")[0] + SERIAL.format(ring=device / "ring")
    (device / "edge.toml").write_text(text)
    for name in ("ring", "models/slots/ab", "state/tables", "state/update/staged", "state/second"):
        (device / name).mkdir(parents=True)
    for name in OURS:
        (device / name).write_bytes(b"of dev-1")
    for name in (*NOT_OURS, "state/second/guard"):
        (device / name).write_bytes(b"of somebody else")
    return device


OURS = (
    *("ring/00000007.seg", "ring/.00000006.seg.01ab.tmp", "ring/lock", "edge.log", "mqtt.password"),
    *("models/slots/ab/model.tflite", "models/slots.json", "models/.active.01ab.tmp"),
    *("state/tables/1-0.rows", "state/update/staged/1.qflare", "state/.guard.01ab.tmp"),
    *(".device.seed.01ab.tmp", ".broker.password.77.tmp", "enrolled"),
)
NOT_OURS = ("ring/notes.txt", "labels.csv", "models/readme", "state/second/device.sqlite")


def test_what_lies_elsewhere_goes_too_and_nothing_of_others(
    spread: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(spread.rglob("*"))
    assert run(spread, "--dry-run", "--json") == 0
    assert sorted(spread.rglob("*")) == before
    plan = json.loads(capsys.readouterr().out)
    assert run(spread, "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [it["path"] for it in told["erased"]] == [it["path"] for it in plan["would_erase"]]
    assert plan["kept"] == told["kept"] == [str(spread / "labels.csv")]
    assert not [name for name in OURS if (spread / name).exists()]
    assert all((spread / name).exists() for name in (*NOT_OURS, "owner.key", "edge.toml"))
    assert run(spread, "--yes", "--data") == 0
    assert not (spread / "labels.csv").exists()


def test_the_owner_s_input_stays_also_in_the_state_directory(device: Path) -> None:
    """As where provisioning tells people to put it; --data takes it along."""
    samples = device / "state" / "data" / "samples.npz"
    samples.parent.mkdir()
    samples.write_bytes(b"the owner's")
    config = device / "edge.toml"
    config.write_text(EDGE.replace("samples.npz", "state/data/samples.npz"))
    assert run(device, "--yes") == 0
    assert [path.name for path in (device / "state").rglob("*")] == ["data", "samples.npz"]
    assert run(device, "--yes", "--data") == 0
    assert not (device / "state").exists()


def test_a_folder_that_holds_more_than_samples_is_refused(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (device / "edge.toml").write_text(EDGE.replace('"samples.npz"', f'"{device}"'))
    before = sorted(device.rglob("*"))
    assert run(device, "--yes", "--data") == 1
    assert "holds more than samples" in capsys.readouterr().err
    assert sorted(device.rglob("*")) == before


def test_a_board_may_be_provisioned_anew(
    device: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the technician's program remembers would say that this is dev-1 already."""
    memory = tmp_path_factory.mktemp("provision")
    (memory / "state.json").write_text('{"name": "dev-1"}')
    monkeypatch.setattr(System, "config", device)
    monkeypatch.setattr(System, "state", memory)
    assert run(device, "--yes", "--keep-identity") == 0
    assert memory.exists()
    assert run(device, "--yes") == 0
    assert not memory.exists()


def test_no_state_at_all_is_half_erased_while_samples_are_left(spread: Path) -> None:
    """The collector doesn't start again between the first file that goes and the last."""
    (spread / "state" / "forgetting").touch()
    from edge_runtime.storage.opening import SAMPLES, purpose_key

    with pytest.raises(ConfigFault, match="half erased"):
        purpose_key(spread / "state", StorageSection(), {}, SAMPLES, create=True)


def test_no_link_is_followed_to_what_is_to_be_overwritten(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's user owns the folder, and may put a link there while root erases."""
    victim = device / "victim"
    victim.write_bytes(b"root's")
    real = Path.is_symlink

    def swapped(path: Path) -> bool:
        found = real(path)
        if path.name == SEAL and not found:
            path.unlink()
            path.symlink_to(victim)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_symlink", swapped)
        assert run(device, "--yes") == 1
    assert victim.read_bytes() == b"root's"
    assert run(device, "--yes") == 0
    assert victim.read_bytes() == b"root's"
