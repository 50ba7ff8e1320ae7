"""Rotten bits, lost files, full and read-only disks: what a device then still knows."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.events import SaveManifest, Settle
from edge_runtime.memory import Fate, Memory
from edge_runtime.storage.guard import SLOT, Guard, Guarded
from edge_runtime.storage.vault import Damaged, Vault
from edge_runtime.store import Bounds, Store, StoreFull
from qflare.faults import LocalFault
from qflare.host.config import ConfigFault
from qflare.names import Digest
from tests.unit.test_edge_store import STATS, commit

SMALL = Bounds(reserve=0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A device that answered rounds 1 and 2 and was stopped in good order."""
    store = Store(tmp_path / "state", bounds=SMALL)
    store.load()
    store.save_manifest(SaveManifest(b"manifest", Memory()))
    store.commit(commit(1))
    store.settle(Settle(commit(1).entry.update, Fate.ACCEPTED, STATS))
    store.commit(commit(2))
    store.close()
    return tmp_path / "state"


def test_a_rotten_database_is_put_aside_and_no_round_is_answered_twice(state: Path) -> None:
    (state / "device.sqlite").write_bytes(b"rot" * 5000)
    store = Store(state, bounds=SMALL)
    past = store.load()
    assert past.memory == commit(2).memory
    assert (past.outbox, past.journal, store.residual(), store.personal()) == ((), (), None, None)
    assert past.session == 2
    (finding,) = store.findings
    assert "damaged" in finding
    assert "2" in finding
    assert (state / "damaged" / "device.sqlite").read_bytes()[:3] == b"rot"
    store.commit(commit(3))
    store.close()
    store = Store(state, bounds=SMALL)
    assert store.load().memory == commit(3).memory
    assert store.findings == []
    store.close()


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_database_that_is_gone_doesnt_make_a_new_device(state: Path, name: str) -> None:
    if name == "gone":
        (state / "device.sqlite").unlink()
    else:
        (state / "device.sqlite").write_bytes(b"")
    store = Store(state, bounds=SMALL)
    assert store.load().memory == commit(2).memory
    store.close()


def test_an_older_copy_of_the_database_is_noticed(state: Path) -> None:
    """As a card does that loses what it said it had flushed."""
    shutil.copy(state / "device.sqlite", state.parent / "older")
    store = Store(state, bounds=SMALL)
    store.load()
    store.commit(commit(3))
    store.close()
    shutil.copy(state.parent / "older", state / "device.sqlite")
    store = Store(state, bounds=SMALL)
    assert store.load().memory == commit(3).memory
    assert "older" in store.findings[0]
    store.close()


def test_without_the_guard_the_database_is_enough(state: Path) -> None:
    (state / "guard").unlink()
    store = Store(state, bounds=SMALL)
    assert store.load().memory == commit(2).memory
    store.close()
    (state / "device.sqlite").write_bytes(b"rot" * 5000)
    store = Store(state, bounds=SMALL)  # the guard was made again
    assert store.load().memory == commit(2).memory
    store.close()


def test_with_neither_it_says_that_it_cant_go_on(state: Path) -> None:
    (state / "guard").write_bytes(b"")
    (state / "device.sqlite").write_bytes(b"rot" * 5000)
    with pytest.raises(LocalFault, match="qflare device forget"):
        Store(state, bounds=SMALL)
    assert (state / "device.sqlite").read_bytes()[:3] == b"rot"  # nothing was touched


@pytest.mark.parametrize("name", ["residual", "personal", "manifest"])
def test_a_rotten_value_is_dropped_alone(state: Path, name: str) -> None:
    flip(state, "facts", "value", "name", name)
    store = Store(state, bounds=SMALL)
    past = store.load()
    assert [entry.round for entry in past.outbox] == [2]
    assert past.memory == commit(2).memory
    assert (store.residual() is None) == (name == "residual")
    assert (store.personal() is None) == (name == "personal")
    assert (past.manifest is None) == (name == "manifest")
    assert name in store.findings[0]
    store.close()


def test_a_rotten_update_and_a_rotten_row_of_the_journal_are_dropped(state: Path) -> None:
    digest = commit(2).entry.update.raw
    flip(state, "outbox", "data", "digest", digest)
    flip(state, "journal", "entry", "round", 1)
    store = Store(state, bounds=SMALL)
    past = store.load()
    assert past.outbox == ()
    assert [entry.round for entry in past.journal] == [2]
    assert past.memory.answered_round == 2
    assert len(store.findings) == 2
    store.close()
    store = Store(state, bounds=SMALL)
    store.load()
    assert store.findings == []
    store.close()


def flip(state: Path, table: str, column: str, key: str, name: object) -> None:
    """Turn the last bit of a value, as rot does below SQLite."""
    db = sqlite3.connect(state / "device.sqlite")
    where = f"{table} WHERE {key} = ?"
    ((value,),) = db.execute(f"SELECT {column} FROM {where}", (name,)).fetchall()  # noqa: S608
    value = value[:-1] + bytes([value[-1] ^ 1])
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, name))  # noqa: S608
    db.commit()
    db.close()


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_rot_in_one_file_loses_no_answered_round(state: Path, data: st.DataObject) -> None:
    """Wherever bytes of the database or of the guard change: it opens, and knows its rounds."""
    again = state.parent / "again"
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(state, again)
    name = data.draw(st.sampled_from(["device.sqlite", "guard"]))
    file = again / name
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    store = Store(again, bounds=SMALL)
    past = store.load()
    assert past.memory.answered_round == 2
    assert past.session == 2
    for entry in past.outbox:
        assert entry == commit(entry.round).entry
    for entry in past.journal:
        assert entry.update == commit(entry.round).entry.update
    assert store.residual() in (None, commit(2).residual)
    assert store.personal() in (None, commit(2).personal)
    store.close()


@given(content=st.binary(max_size=2 * SLOT + 10))
def test_garbage_is_no_guard(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("guard") / "guard"
    path.write_bytes(content)
    assert Guard(path, Vault()).read() == []


def test_a_torn_slot_leaves_the_other(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "guard", Vault())
    for number in range(1, 6):
        guard.write(Guarded(number, 7, b"memory %d" % number))
        newest, *rest = guard.read()
        assert newest == Guarded(number, 7, b"memory %d" % number)
        assert [slot.number for slot in rest] == ([number - 1] if number > 1 else [])
    content = bytearray((tmp_path / "guard").read_bytes())
    content[SLOT + 40] ^= 1  # number 5 is odd
    (tmp_path / "guard").write_bytes(content)
    assert [slot.number for slot in guard.read()] == [4]


@given(place=st.binary(min_size=1, max_size=40), data=st.binary(max_size=200), bad=st.binary())
def test_only_what_was_wrapped_for_a_place_is_unwrapped(
    place: bytes, data: bytes, bad: bytes
) -> None:
    vault = Vault()
    wrapped = vault.wrap(place, data)
    assert vault.unwrap(place, wrapped) == data
    with pytest.raises(Damaged):
        vault.unwrap(place + b"/", wrapped)
    if bad != wrapped:
        with pytest.raises(Damaged):
            vault.unwrap(place, bad)


# --- bounds ------------------------------------------------------------------------------------


def test_models_are_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, bounds=Bounds(blobs=1000, reserve=0))
    store.blobs.write(Digest.of(b"a" * 600), b"a" * 600)
    with pytest.raises(LocalFault, match="models_mb"):
        store.blobs.write(Digest.of(b"b" * 600), b"b" * 600)
    store.blobs.keep([])
    store.blobs.write(Digest.of(b"b" * 600), b"b" * 600)
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    with (disk / "somebody-elses").open("ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def test_a_full_disk_costs_a_round_and_heals(small_disk: Path) -> None:
    state = small_disk / "state"
    store = Store(state, bounds=Bounds(reserve=3 * 2**20))
    store.load()
    assert store.shortage() is None
    store.commit(commit(1))
    fill(small_disk)
    why = store.shortage()
    assert why is not None
    assert "full" in why  # no round begins now; but one was at work:
    store.commit(commit(2, size=500_000))  # the reserve is given up for it
    for round_ in range(3, 20):
        try:
            store.commit(commit(round_, size=500_000))
        except StoreFull:
            break
    else:
        pytest.fail("the disk never was full")
    store.close()
    with (small_disk / "somebody-elses").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 2**20)  # a little room is enough to start with
    store = Store(state, bounds=Bounds(reserve=3 * 2**20))
    past = store.load()
    last = past.memory.answered_round
    assert 2 <= last < round_
    assert past.outbox[-1] == commit(last, size=500_000).entry
    assert store.residual() == commit(last).residual
    assert store.shortage() is not None
    (small_disk / "somebody-elses").unlink()
    assert store.shortage() is None
    store.commit(commit(round_, size=500_000))
    store.close()
    store = Store(state)
    assert store.load().memory.answered_round == round_
    store.close()


_READ_ONLY = """
import sys
from pathlib import Path
from edge_runtime.store import Store
from qflare.host.config import ConfigFault
try:
    Store(Path(sys.argv[1]))
except ConfigFault as fault:
    print(fault)
    sys.exit(fault.exit_code)
"""


def test_a_read_only_directory_is_a_matter_of_configuration(small_disk: Path) -> None:
    Store(small_disk / "state").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _READ_ONLY, str(small_disk / "state")],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 78, done.stderr
    assert "can write" in done.stdout
    with pytest.raises(ConfigFault):
        Store(small_disk / "another")


def test_the_same_memory_again_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, bounds=SMALL)
    store.load()
    store.save_memory(commit(1).memory)
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    store.save_memory(commit(1).memory)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    assert Memory() != commit(1).memory
    store.close()


def test_a_disk_that_is_full_from_the_start_is_no_matter_of_configuration(
    small_disk: Path,
) -> None:
    """So that the daemon is started again, and works once there is room."""
    fill(small_disk)
    with pytest.raises(LocalFault, match="free some space") as full:
        Store(small_disk / "state")
    assert not isinstance(full.value, ConfigFault)
    (small_disk / "somebody-elses").unlink()
    Store(small_disk / "state").close()
