"""Slots on a disk that is damaged, full, or shared with other processes."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from edge_runtime import slots as slots_module
from edge_runtime.slots import STATE, Slots, read_slot
from qflare.faults import LocalFault
from qflare.host.files import take_lock
from qflare.names import Digest
from tests.serving_rig import file_of, manifest_of

ONE, TWO, THREE = (Digest.of(bytes([i])) for i in range(3))


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    made = Slots(tmp_path / "model")
    for model in (ONE, TWO):
        made.stage(model, file_of(model), manifest_of(model))
        made.activate(model, 1, 5.0)
    return made


def test_applications_find_the_model_by_a_stable_path(slots: Slots) -> None:
    assert (slots.link / "model.tflite").read_bytes() == file_of(TWO)
    assert read_slot(slots.link).manifest.classes == ["a", "b"]
    assert not slots.link.readlink().is_absolute()  # so that the directory can be moved


def test_only_the_group_may_read(slots: Slots) -> None:
    for path in [
        slots.link / "model.tflite",
        slots.link / "manifest.json",
        slots.link.parent / STATE,
    ]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for path in (slots.link.parent, slots.link.resolve(), slots.link.parent / "slots"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_the_directory_s_group_is_handed_down(tmp_path: Path) -> None:
    """As a daemon shares its models that may not give files to other groups."""
    if os.geteuid() != 0:
        pytest.skip("only root can prepare a directory of another group")
    place = tmp_path / "shared"
    place.mkdir()
    os.chown(place, -1, 12345)
    place.chmod(0o2750)
    slots = Slots(place)
    slots.stage(ONE, file_of(ONE), manifest_of(ONE))
    slots.activate(ONE, 1, 5.0)
    for path in (slots.link / "model.tflite", slots.link / "manifest.json", place / STATE):
        assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (12345, 0o640)
    assert slots.link.resolve().stat().st_gid == 12345


def test_a_group_can_be_given(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files to any group")
    slots = Slots(tmp_path / "model", group=12345)
    slots.stage(ONE, file_of(ONE), manifest_of(ONE))
    assert (tmp_path / "model" / "slots" / str(ONE) / "model.tflite").stat().st_gid == 12345


def test_a_group_that_cannot_be_given_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    with pytest.raises(LocalFault, match="2750"):
        Slots(tmp_path / "model", group=12345)


def test_a_damaged_file_is_noticed_and_made_again(slots: Slots) -> None:
    path = slots.link.resolve() / "model.tflite"
    path.write_bytes(b"rot")
    assert not slots.sound(TWO)
    slots.stage(TWO, file_of(TWO), manifest_of(TWO))
    assert slots.sound(TWO)
    assert read_slot(slots.link).read() == file_of(TWO)


def test_a_lost_slot_gives_way_to_the_one_before(slots: Slots) -> None:
    (slots.link.resolve() / "manifest.json").write_bytes(b"{")
    again = Slots(slots.link.parent)
    assert again.active is not None
    assert again.active.model == ONE
    assert read_slot(again.link).model == ONE


def test_both_lost_leaves_no_model_and_no_link(slots: Slots) -> None:
    for place in (slots.link.parent / "slots").iterdir():
        (place / "manifest.json").unlink()
    again = Slots(slots.link.parent)
    assert again.active is None
    assert not again.link.is_symlink()
    with pytest.raises(LocalFault, match="wait until"):
        read_slot(again.link)


def test_a_damaged_state_is_known_again_by_the_link(slots: Slots) -> None:
    (slots.link.parent / STATE).write_bytes(b"\0" * 100)
    again = Slots(slots.link.parent)
    assert again.active is not None
    assert again.active.model == TWO


def test_a_damaged_previous_model_is_not_rolled_back_to(slots: Slots) -> None:
    assert slots.previous is not None
    (slots.previous.directory / "model.tflite").write_bytes(b"rot")
    with pytest.raises(LocalFault, match="damaged"):
        slots.rollback("try", 6.0)
    assert slots.active is not None
    assert slots.active.model == TWO


def test_a_damaged_model_is_not_activated(slots: Slots) -> None:
    slots.stage(THREE, file_of(THREE), manifest_of(THREE))
    (slots.link.parent / "slots" / str(THREE) / "model.tflite").write_bytes(b"rot")
    with pytest.raises(LocalFault, match="damaged"):
        slots.activate(THREE, 2, 6.0)
    assert slots.state.active == str(TWO)


def test_a_full_disk_changes_nothing(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        slots.stage(THREE, file_of(THREE), manifest_of(THREE))
    with pytest.raises(OSError, match="No space"):
        slots.rollback("try", 6.0)
    monkeypatch.setattr(os, "fsync", real)
    again = Slots(slots.link.parent)
    assert again.state.active == str(TWO)
    assert not again.sound(THREE)


def test_a_refused_model_leaves_its_slot_and_can_be_tried_again(slots: Slots) -> None:
    slots.stage(THREE, file_of(THREE), manifest_of(THREE))
    slots.refuse(THREE, "worse")
    assert not slots.sound(THREE)
    slots.lift(THREE)
    assert not slots.refused
    with pytest.raises(LocalFault, match="isn't among"):
        slots.lift(THREE)
    with pytest.raises(LocalFault, match="active model"):
        slots.refuse(TWO, "no")


def test_only_the_last_refusals_are_kept(slots: Slots) -> None:
    models = [Digest.of(b"bad", bytes([i])) for i in range(40)]
    for model in models:
        slots.refuse(model, "x" * 5000)
    assert slots.refused == frozenset(models[-16:])


def test_two_processes_take_turns(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = take_lock(slots.link.parent / "lock", "busy")
    timer = threading.Timer(0.2, os.close, (lock,))
    timer.start()
    slots.stage(THREE, file_of(THREE), manifest_of(THREE))
    timer.join()
    assert slots.sound(THREE)


def test_a_process_that_keeps_the_lock_is_named_as_such(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "_BUSY_S", 0.05)
    lock = take_lock(slots.link.parent / "lock", "busy")
    with pytest.raises(LocalFault, match="in use by another process"):
        slots.stage(THREE, file_of(THREE), manifest_of(THREE))
    os.close(lock)


def test_the_daemon_needs_no_numpy_for_it() -> None:
    import subprocess
    import sys

    code = "import sys, edge_runtime.slots; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
