"""A device's memory on disk: one SQLite file, and one file per blob.

Everything that must stay in step is written in one transaction, with `synchronous=FULL`: an update
in the outbox without its residual (or the other way round) would lose or double what compression
left over, and personal parameters would be those of another update. Blobs are outside, by digest:
they can always be fetched again.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from edge_runtime.events import Commit, SaveManifest, Settle
from edge_runtime.memory import Fate, JournalEntry, Memory, OutboxEntry, RoundStats
from edge_runtime.state import JOURNAL_KEPT, Past
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import (
    ensure_private_dir,
    read_bounded,
    sync_dir,
    take_lock,
    write_atomic,
)
from qflare.messages import BLOB_MAX
from qflare.names import Digest

# Each entry brings the schema from version i to i + 1, in one transaction.
MIGRATIONS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE outbox (
        digest BLOB PRIMARY KEY, round INTEGER NOT NULL, chunk INTEGER NOT NULL, data BLOB NOT NULL
    ) STRICT;
    CREATE TABLE journal (
        round INTEGER PRIMARY KEY, claims BLOB NOT NULL, digest BLOB NOT NULL, fate TEXT NOT NULL,
        stats BLOB NOT NULL
    ) STRICT;
    """,
)


class BlobGone(LocalFault):
    """A blob is missing or damaged; it has to be fetched again."""

    def __init__(self, blob: Digest, why: str) -> None:
        super().__init__(f"blob {blob.short}: {why}; it will be fetched again")
        self.blob = blob


class Blobs:
    """Files named by their SHA-256. Reading is safe from any thread."""

    def __init__(self, directory: Path) -> None:
        self._dir = ensure_private_dir(directory)
        for rest in self._dir.glob(".*.tmp"):  # of a crash while writing
            rest.unlink()

    def all(self) -> frozenset[Digest]:
        """What is there, by name; `read` checks the content."""
        found = set()
        for file in self._dir.iterdir():
            with suppress(PeerFault):
                found.add(Digest.parse(file.name))
        return frozenset(found)

    def write(self, blob: Digest, data: bytes) -> None:
        """Keep a blob durably; raise BlobGone if the disk refuses."""
        try:
            write_atomic(self._dir / str(blob), data)
        except OSError as error:
            raise BlobGone(blob, f"cannot be written: {error.strerror}") from None

    def read(self, blob: Digest) -> bytes:
        """The blob, checked; raise BlobGone if it is missing or damaged."""
        path = self._dir / str(blob)
        try:
            data = read_bounded(path, BLOB_MAX)
        except (OSError, LocalFault) as error:
            raise BlobGone(blob, f"cannot be read: {error}") from None
        if Digest.of(data) != blob:
            with suppress(OSError):
                path.unlink()
            raise BlobGone(blob, "is damaged")
        return data

    def keep(self, blobs: Iterable[Digest]) -> None:
        """Remove every other file."""
        kept = {str(blob) for blob in blobs}
        gone = [file for file in self._dir.iterdir() if file.name not in kept]
        for file in gone:
            file.unlink(missing_ok=True)
        if gone:
            sync_dir(self._dir)


class Store:
    """The state directory of one device; only one process may have it open."""

    def __init__(self, directory: Path) -> None:
        """Open or create; raise LocalFault for a directory in use, or of a newer QFLARE."""
        ensure_private_dir(directory)
        busy = f"{directory} is in use; stop the other process first"
        self._lock = take_lock(directory / "lock", busy)
        self.blobs = Blobs(directory / "blobs")
        self._path = directory / "device.sqlite"
        self._db = sqlite3.connect(self._path, isolation_level=None)
        try:
            self._path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate()
        except sqlite3.DatabaseError as error:
            self.close()
            raise LocalFault(f"{self._path}: {error}; move it away and start again") from None

    def close(self) -> None:
        """Let go of the directory."""
        self._db.close()
        os.close(self._lock)

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            self.close()
            raise LocalFault(f"{self._path} is of a newer QFLARE; install that again")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")

    def load(self) -> Past:
        """Everything that a machine starts from; each call begins a new session."""
        with self._transaction():
            session = int.from_bytes(self._fact("session") or b"", "big") + 1
            self._put("session", session.to_bytes(8, "big"))
        memory = self._fact("memory")
        return Past(
            memory=Memory.parse(memory) if memory else Memory(),
            manifest=self._fact("manifest"),
            outbox=tuple(
                OutboxEntry(round_, Digest(digest), chunk, data)
                for round_, digest, chunk, data in self._db.execute(
                    "SELECT round, digest, chunk, data FROM outbox ORDER BY round"
                )
            ),
            journal=tuple(
                JournalEntry(
                    round_, Digest(claims), Digest(digest), Fate(fate), RoundStats.parse(stats)
                )
                for round_, claims, digest, fate, stats in self._db.execute(
                    "SELECT round, claims, digest, fate, stats FROM journal ORDER BY round"
                )
            ),
            blobs=self.blobs.all(),
            session=session,
        )

    def residual(self) -> bytes | None:
        """What the last compression left over, by `edge_runtime.residual`, if anything."""
        return self._fact("residual")

    def personal(self) -> bytes | None:
        """The personal parameters as the last training left them, little-endian float32, if any."""
        return self._fact("personal")

    def save_memory(self, memory: Memory) -> None:
        with self._transaction():
            self._put("memory", memory.to_bytes())

    def save_manifest(self, effect: SaveManifest) -> None:
        with self._transaction():
            self._put("manifest", effect.manifest)
            self._put("memory", effect.memory.to_bytes())

    def commit(self, effect: Commit) -> None:
        """The update, what training left here, the journal and the memory: all of them or none."""
        entry, journal = effect.entry, effect.journal
        with self._transaction():
            self._db.execute(
                "INSERT INTO outbox (digest, round, chunk, data) VALUES (?, ?, ?, ?)",
                (entry.update.raw, entry.round, entry.chunk, entry.data),
            )
            self._put_journal(journal)
            self._put("residual", effect.residual)
            if effect.personal is None:  # those that may be here are of another model
                self._db.execute("DELETE FROM facts WHERE name = 'personal'")
            else:
                self._put("personal", effect.personal)
            self._put("memory", effect.memory.to_bytes())

    def settle(self, effect: Settle) -> None:
        """Note an update's fate; one that waits no longer leaves the outbox."""
        with self._transaction():
            self._db.execute(
                "UPDATE journal SET fate = ?, stats = ? WHERE digest = ?",
                (effect.fate.value, effect.stats.to_bytes(), effect.update.raw),
            )
            if effect.fate is not Fate.WAITING:
                self._db.execute("DELETE FROM outbox WHERE digest = ?", (effect.update.raw,))

    def _put_journal(self, entry: JournalEntry) -> None:
        self._db.execute(
            "INSERT INTO journal (round, claims, digest, fate, stats) VALUES (?, ?, ?, ?, ?)",
            (
                entry.round,
                entry.claims.raw,
                entry.update.raw,
                entry.fate.value,
                entry.stats.to_bytes(),
            ),
        )
        self._db.execute(
            "DELETE FROM journal WHERE round NOT IN"
            " (SELECT round FROM journal ORDER BY round DESC LIMIT ?)",
            (JOURNAL_KEPT,),
        )

    def _fact(self, name: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _put(self, name: str, value: bytes) -> None:
        self._db.execute(
            "INSERT INTO facts (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the block raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
