"""Database, blob store, spool and ledger."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from coordinator.database import Store, migrate
from coordinator.database.schema import metadata
from coordinator.database.store import connect
from coordinator.events import DeviceRegistered, OpenEnclaveRound, RoundOpening, RoundReleased
from coordinator.ledger import Ledger
from coordinator.models import ModelStore
from coordinator.spool import Spool
from qflare.faults import LocalFault, PeerFault
from qflare.merkle import EMPTY_ROOT, root
from qflare.messages import CHUNK_MAX, ZERO
from qflare.names import DeviceId, Digest
from qflare.policy import RoundPolicy
from qflare.schedule import Schedule

DEV = DeviceId.parse("dev-1")
POLICY = RoundPolicy("xwing-mldsa65", "q8", 2, 9, 1.0, 9, 60, Schedule(5, 1, 0.1, 0.5, 0.0, 1.0))


def opening(number: int) -> RoundOpening:
    request = OpenEnclaveRound(number, 1, POLICY, (), None, Digest.of(b"w"), ZERO)
    return RoundOpening(request, 0, 1.0)


def release(number: int, size: int, previous: Digest) -> RoundReleased:
    digest = Digest.of(b"receipt", bytes([number]))
    model = Digest.of(b"m")
    return RoundReleased(
        number, b"leaf", digest, previous, model, 4, ZERO, size, EMPTY_ROOT, b"ready", 0.1, 2.0
    )


def test_the_tables_are_what_the_migrations_make(tmp_path: Path) -> None:
    Store(tmp_path / "a.db").close()
    engine = connect(tmp_path / "a.db", read_only=True)
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        made = dict(connection.execute(text("SELECT name, sql FROM sqlite_master")).all())
        pragma = connection.exec_driver_sql
        assert pragma("PRAGMA foreign_keys").scalar() == 1
        assert pragma("PRAGMA journal_mode").scalar() == "wal"
    for table in metadata.tables.values():
        assert "STRICT" in made[table.name], table.name
    engine.dispose()


def test_commits_wait_for_the_disk(tmp_path: Path) -> None:
    engine = connect(tmp_path / "a.db")
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


@pytest.mark.parametrize("revision", migrate.known())
def test_an_older_database_is_brought_up_and_keeps_its_rows(tmp_path: Path, revision: str) -> None:
    engine = connect(tmp_path / "a.db")
    migrate.upgrade(engine, revision)
    with engine.begin() as connection:
        assert migrate.current(connection) == revision
        connection.execute(text("INSERT INTO devices VALUES ('dev-1', x'01', 1.0)"))
    engine.dispose()
    store = Store(tmp_path / "a.db")
    assert store.load().certificates == ((DEV, b"\x01"),)
    store.close()


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path / "a.db").close()
    engine = connect(tmp_path / "a.db")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(LocalFault, match="newer"):
        Store(tmp_path / "a.db")


def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db")
    lost_race = release(1, 5, ZERO)
    with pytest.raises(LocalFault, match="somebody else"):
        store.commit([DeviceRegistered(DEV, b"der", 1.0), opening(1), lost_race])
    assert store.load().last is None
    assert store.load().certificates == ()
    store.close()


def test_the_ledger_is_a_chain(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db")
    store.commit([opening(1), release(1, 0, ZERO), opening(2)])
    with pytest.raises(IntegrityError):  # two receipts can't follow the same one
        store.commit([release(2, 1, ZERO)])
    store.commit([release(2, 1, Digest.of(b"receipt", bytes([1])))])
    loaded = store.load()
    assert len(loaded.leaves) == 2
    assert loaded.released is not None
    assert loaded.released.number == 2
    store.close()


def test_reading_needs_no_daemon_and_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db")
    store.commit([DeviceRegistered(DEV, b"der", 1.0)])
    for closed in (False, True):
        if closed:
            store.close()
        engine = connect(tmp_path / "a.db", read_only=True)
        with engine.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM devices")).scalar() == 1
        engine.dispose()


def test_blobs_by_digest(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    data = bytes(range(256)) * 1500
    digest = store.put(data)
    assert store.put(data) == digest == Digest.of(data)
    assert store.read(digest) == data
    assert store.read(ZERO) == b""
    assert store.read_chunk(digest, 0) + store.read_chunk(digest, 1) == data
    assert store.read_chunk(digest, 2) == b""
    assert len(store.read_chunk(digest, 0)) == CHUNK_MAX
    store.path(digest).write_bytes(data[:-1] + b"!")
    with pytest.raises(LocalFault, match="damaged"):
        store.read(digest)
    other = store.put(b"other")
    assert store.keep([other]) == 1
    assert not store.has(digest)
    with pytest.raises(LocalFault, match="missing"):
        store.read(digest)


def test_an_imported_file_has_to_be_the_one(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    file = tmp_path / "weights"
    with pytest.raises(LocalFault, match="weights"):
        store.import_file(file, Digest.of(b"right"), "weights")
    file.write_bytes(b"wrong")
    with pytest.raises(LocalFault, match="is not the weights"):
        store.import_file(file, Digest.of(b"right"), "weights")
    file.write_bytes(b"right")
    store.import_file(file, Digest.of(b"right"), "weights")
    file.unlink()
    store.import_file(file, Digest.of(b"right"), "weights")  # it is in the store


def test_the_spool_keeps_what_was_finished(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    digest, other = Digest.of(b"abcdef"), Digest.of(b"x")
    spool.start(DEV, digest, 6)
    spool.write(DEV, digest, 3, b"def")
    spool.write(DEV, digest, 0, b"abc")
    spool.write(DEV, other, 0, b"nobody asked")
    assert spool.finish(DEV, digest) == b"abcdef"
    assert spool.finish(DEV, digest) is None
    spool.start(DEV, other, 1)
    again = Spool(tmp_path / "spool")
    assert not list((tmp_path / "spool").glob("*.part"))
    assert again.read(DEV, digest) == b"abcdef"
    again.keep({(DEV, digest)})
    assert again.path(DEV, digest).exists()
    again.keep(set())
    with pytest.raises(LocalFault, match="missing"):
        again.read(DEV, digest)


def test_the_ledger_in_memory() -> None:
    ledger = Ledger()
    assert ledger.checkpoint.root == EMPTY_ROOT
    first, second = Digest.of(b"1"), Digest.of(b"2")
    ledger.append(b"a", first, ZERO)
    with pytest.raises(LocalFault, match="restore"):
        ledger.append(b"b", second, ZERO)
    ledger.append(b"b", second, first)
    assert ledger.checkpoint.root == root([b"a", b"b"])
    with pytest.raises(PeerFault):
        ledger.consistency(1, 3)
