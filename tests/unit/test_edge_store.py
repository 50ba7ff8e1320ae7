"""The device's store: what is in one transaction stays together, whenever the process dies."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.events import Commit, SaveManifest, Settle
from edge_runtime.memory import Fate, JournalEntry, Memory, OutboxEntry, RoundStats
from edge_runtime.state import JOURNAL_KEPT
from edge_runtime.store import BlobGone, Store, memory_of
from qflare import codec
from qflare.faults import LocalFault
from qflare.names import Digest

STATS = RoundStats(stages=(("train", 0.5),), counters=(("steps", 3),))


def commit(round_: int, size: int = 1000, personal: bool = True) -> Commit:
    data = bytes([round_ % 251]) * size
    update = Digest.of(data)
    claims = Digest.of(b"claims", bytes([round_]))
    return Commit(
        OutboxEntry(round_, update, 4096, data),
        JournalEntry(round_, claims, update, Fate.WAITING, STATS),
        bytes([round_]) * 48,
        Memory().with_answer(round_, claims),
        bytes([round_ + 1]) * 8 if personal else None,
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    store.save_manifest(SaveManifest(b"manifest", replace(Memory(), manifest_version=3)))
    first = commit(1)
    store.commit(first)
    store.blobs.write(Digest.of(b"weights"), b"weights")
    store.close()
    store = Store(tmp_path / "state")
    past = store.load()
    assert past.memory == first.memory
    assert past.manifest == b"manifest"
    assert past.outbox == (first.entry,)
    assert past.journal == (first.journal,)
    assert past.blobs == {Digest.of(b"weights")}
    assert store.residual() == first.residual
    assert store.personal() == first.personal
    store.settle(Settle(first.entry.update, Fate.ACCEPTED, STATS.with_stage("transfer", 1.0)))
    past = store.load()
    assert past.outbox == ()
    assert past.journal[0].fate is Fate.ACCEPTED
    assert dict(past.journal[0].stats.stages) == {"train": 0.5, "transfer": 1.0}
    store.close()


def test_a_memory_from_before_owners_could_change_is_read() -> None:
    memory = replace(Memory(), manifest_version=3, answered_round=7)
    older = codec.encode(memory.to_value()[:-2])
    assert memory_of(b"\1" + older) == memory
    for other in (b"\1" + older[:-1], b"\1" + codec.encode(7), b"\3" + memory.to_bytes()):
        with pytest.raises(LocalFault, match="newer"):
            memory_of(other)


def test_personal_parameters_of_another_model_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert store.personal() is None
    store.commit(commit(1))
    store.commit(commit(2, personal=False))
    assert store.residual() == commit(2).residual
    assert store.personal() is None
    store.close()


def test_sessions_rise(tmp_path: Path) -> None:
    sessions = []
    for _ in range(3):
        store = Store(tmp_path / "state")
        sessions.append(store.load().session)
        store.close()
    assert sessions == [1, 2, 3]


def test_journal_is_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    for round_ in range(1, JOURNAL_KEPT + 10):
        store.commit(commit(round_))
    journal = store.load().journal
    assert [entry.round for entry in journal] == [*range(10, JOURNAL_KEPT + 10)]
    store.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    with pytest.raises(LocalFault, match="in use"):
        Store(tmp_path / "state")
    store.close()
    Store(tmp_path / "state").close()


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "state").close()
    with sqlite3.connect(tmp_path / "state" / "device.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LocalFault, match="newer"):
        Store(tmp_path / "state")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "device.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(LocalFault, match=r"device\.sqlite"):
        Store(tmp_path)


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    Store(tmp_path / "state").close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "device.sqlite").stat().st_mode & 0o777 == 0o600


def test_blobs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob, other = Digest.of(b"blob"), Digest.of(b"other")
    store.blobs.write(blob, b"blob")
    store.blobs.write(other, b"other")
    assert store.blobs.read(blob) == b"blob"
    store.blobs.keep([blob])
    assert store.blobs.all() == {blob}
    with pytest.raises(BlobGone):
        store.blobs.read(other)
    (tmp_path / "blobs" / str(blob)).write_bytes(b"blow")
    with pytest.raises(BlobGone, match="damaged"):
        store.blobs.read(blob)
    assert store.blobs.all() == frozenset()
    store.close()


_CHILD = """
import os, signal, sys
from pathlib import Path
from edge_runtime import store as store_module
from tests.unit.test_edge_store import commit
state, point, personal = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
store = store_module.Store(state)
store.load()
store.commit(commit(1))
seen = 0
def trace(statement):
    global seen
    seen += 1
    if seen == point:
        os.kill(os.getpid(), signal.SIGKILL)
store._db._db.set_trace_callback(trace)
store.commit(commit(2, personal=personal))
if seen < point:
    sys.exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("personal", [True, False], ids=["personal", "none"])
@pytest.mark.parametrize("point", range(1, 16))
def test_killed_at_every_statement_of_a_commit(tmp_path: Path, point: int, personal: bool) -> None:
    """Before, between and after the statements: the second update is there whole, or not at all."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "state"), str(point), str(personal)],
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    store = Store(tmp_path / "state")
    past = store.load()
    rounds = [entry.round for entry in past.outbox]
    assert rounds in ([1], [1, 2])
    last = commit(rounds[-1], personal=personal or rounds == [1])
    assert [entry.round for entry in past.journal] == rounds
    assert past.memory == last.memory
    assert (store.residual(), store.personal()) == (last.residual, last.personal)
    if child.returncode == 0:
        assert rounds == [1, 2]
    if rounds == [1]:
        store.commit(commit(2))
    store.close()
