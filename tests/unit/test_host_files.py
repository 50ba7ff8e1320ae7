"""Files: replaced whole or not at all, private, and never larger than we can hold."""

import os
import stat
from pathlib import Path

import pytest

from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir, read_bounded, take_lock, write_atomic


def test_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "state"
    write_atomic(target, b"one")
    write_atomic(target, b"two", mode=0o640)
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_the_mode_is_what_was_asked_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        write_atomic(tmp_path / "secret", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    (target / "inside").write_bytes(b"old")
    with pytest.raises(OSError, match="directory"):
        write_atomic(target, b"new")
    assert (target / "inside").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_read_has_a_ceiling(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_bounded(tmp_path / "f", 5) == b"12345"
    with pytest.raises(LocalFault, match="more than 4 bytes"):
        read_bounded(tmp_path / "f", 4)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 4)


def test_read_does_not_wait_for_a_pipe_or_read_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(LocalFault, match="not a regular file"):
            read_bounded(odd, 10)


def test_private_dir(tmp_path: Path) -> None:
    made = ensure_private_dir(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    assert stat.S_IMODE(ensure_private_dir(made).stat().st_mode) == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocalFault, match="no directory"):
        ensure_private_dir(tmp_path / "file")


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first = take_lock(tmp_path / "lock", "busy")
    with pytest.raises(LocalFault, match="busy"):
        take_lock(tmp_path / "lock", "busy")
    os.close(first)
    os.close(take_lock(tmp_path / "lock", "busy"))
