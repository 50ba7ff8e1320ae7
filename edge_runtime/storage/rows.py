"""The tables of a device's database, with every value wrapped by its vault.

facts: memory, session, manifest, residual, personal, and the proofs of journaled rounds as
audit/<round>/<kind>. outbox: updates without a receipt. journal:
what became of the last rounds. Digests and the numbers of rounds are not private; the rest is.
"""

import sqlite3
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from edge_runtime.memory import Fate, JournalEntry, OutboxEntry, RoundStats
from edge_runtime.storage.database import Database
from edge_runtime.storage.vault import Damaged, Vault
from qflare.faults import PeerFault
from qflare.messages import KIB
from qflare.names import Digest
from qflare.record import Record


def first_schema(db: sqlite3.Connection) -> None:
    """Version 2, the first that was released."""
    for statement in (
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
        "CREATE TABLE outbox (digest BLOB PRIMARY KEY, round INTEGER NOT NULL,"
        " chunk INTEGER NOT NULL, data BLOB NOT NULL) STRICT",
        "CREATE TABLE journal (round INTEGER PRIMARY KEY, digest BLOB NOT NULL,"
        " entry BLOB NOT NULL) STRICT",
    ):
        db.execute(statement)


# Each brings the schema from one version to the next, in one transaction.
MIGRATIONS: Final = (first_schema,)


@dataclass(frozen=True)
class _Journaled(Record):
    """The private part of a journal's row."""

    CEILING: ClassVar[int] = 8 * KIB

    claims: Digest
    fate: Fate
    stats: RoundStats


@dataclass(frozen=True)
class Loss:
    """A row that can't be read any more, and what it was."""

    table: str
    key: str
    value: Any
    says: str


class Rows:
    """Reading and writing; whoever writes has opened a transaction."""

    def __init__(self, db: Database, vault: Vault) -> None:
        self._db, self._vault = db, vault

    def fact(self, name: str) -> bytes | None:
        """Raise Damaged for a value that isn't what was written."""
        rows = self._db.query("SELECT value FROM facts WHERE name = ?", (name,))
        return self._vault.unwrap(_place("facts", name), rows[0][0]) if rows else None

    def put(self, name: str, value: bytes) -> None:
        self._db.execute(
            "INSERT INTO facts (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, self._vault.wrap(_place("facts", name), value)),
        )

    def remove(self, table: str, key: str, value: Any) -> None:
        self._db.execute(f"DELETE FROM {table} WHERE {key} = ?", (value,))  # noqa: S608

    def put_update(self, entry: OutboxEntry) -> None:
        digest = entry.update.raw
        self._db.execute(
            "INSERT INTO outbox (digest, round, chunk, data) VALUES (?, ?, ?, ?)",
            (
                digest,
                entry.round,
                entry.chunk,
                self._vault.wrap(_place("outbox", digest), entry.data),
            ),
        )

    def outbox(self) -> tuple[list[OutboxEntry], list[Loss]]:
        """By round; and what can't be read."""
        found, lost = [], []
        rows = self._db.query("SELECT round, digest, chunk, data FROM outbox ORDER BY round")
        for round_, digest, chunk, wrapped in rows:
            try:
                data = self._vault.unwrap(_place("outbox", digest), wrapped)
                found.append(OutboxEntry(round_, Digest(digest), chunk, data))
            except (Damaged, PeerFault) as fault:
                what = f"the update of round {round_} is lost: {fault}"
                lost.append(Loss("outbox", "digest", digest, what))
        return found, lost

    def put_entry(self, entry: JournalEntry, kept: int) -> None:
        """Write or replace a round's row; keep the newest ones only."""
        data = _Journaled(entry.claims, entry.fate, entry.stats).to_bytes()
        self._db.execute(
            "INSERT INTO journal (round, digest, entry) VALUES (?, ?, ?) ON CONFLICT (round)"
            " DO UPDATE SET digest = excluded.digest, entry = excluded.entry",
            (entry.round, entry.update.raw, self._vault.wrap(_place("journal", entry.round), data)),
        )
        self._db.execute(
            "DELETE FROM journal WHERE round NOT IN"
            " (SELECT round FROM journal ORDER BY round DESC LIMIT ?)",
            (kept,),
        )
        self._db.execute(
            "DELETE FROM facts WHERE name GLOB 'audit/*' AND"
            " CAST(substr(name, 7) AS INTEGER) NOT IN (SELECT round FROM journal)"
        )

    def put_proof(self, round_: int, kind: str, data: bytes) -> None:
        """Keep the words behind a journaled round's fate; they go when its row goes."""
        self.put(f"audit/{round_}/{kind}", data)

    def proof(self, round_: int, kind: str) -> bytes | None:
        """Raise Damaged as `fact` does."""
        return self.fact(f"audit/{round_}/{kind}")

    def journal(self) -> tuple[list[JournalEntry], list[Loss]]:
        """By round; and what can't be read."""
        found, lost = [], []
        rows = self._db.query("SELECT round, digest, entry FROM journal ORDER BY round")
        for round_, digest, wrapped in rows:
            try:
                it = _Journaled.parse(self._vault.unwrap(_place("journal", round_), wrapped))
                found.append(JournalEntry(round_, it.claims, Digest(digest), it.fate, it.stats))
            except (Damaged, PeerFault) as fault:
                what = f"the journal of round {round_} is lost: {fault}"
                lost.append(Loss("journal", "round", round_, what))
        return found, lost

    def wrap_again(self) -> None:
        """Every value under the vault's first key; what is damaged stays as it is."""
        for table, column, key in (
            ("facts", "value", "name"),
            ("outbox", "data", "digest"),
            ("journal", "entry", "round"),
        ):
            read = f"SELECT {column} FROM {table} WHERE {key} = ?"  # noqa: S608
            change = f"UPDATE {table} SET {column} = ? WHERE {key} = ?"  # noqa: S608
            for (name,) in self._db.query(f"SELECT {key} FROM {table}"):  # noqa: S608
                place = _place(table, name)
                ((value,),) = self._db.query(read, (name,))
                try:
                    data = self._vault.unwrap(place, value)
                except Damaged:
                    continue
                self._db.execute(change, (self._vault.wrap(place, data), name))


def _place(table: str, key: str | int | bytes) -> bytes:
    """What a value is bound to; at most 40 bytes."""
    return table.encode() + b"/" + (key if isinstance(key, bytes) else str(key).encode())
