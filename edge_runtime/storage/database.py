"""One SQLite file, set up for years on an SD card, and for power cuts at any moment.

- WAL with synchronous=FULL: a transaction is appended to one file and flushed once. With a
  rollback journal a round took 27 flushes in place of 12 and 60 % more bytes
  (benchmarks.power_loss.writes). NORMAL would lose the last transactions at a power cut, and others
  may have seen those.
- locking_mode=EXCLUSIVE: one process has the directory, so no shared-memory file is needed.
- The checkpoint comes every 4 MB (wal_autocheckpoint=1000 pages, as by default), not after each
  round: the few pages that every round changes are then written to the database once for many
  rounds, and the log, once it has its full size, is written in place. Checkpoint and truncation
  after each round took 19 flushes and 75 % more bytes. A log that grew longer is cut back
  (journal_size_limit).
- page_size=4096: what ext4 and flash write at least; with smaller pages each would be written more
  than once.
- secure_delete=OFF: Debian's SQLite otherwise writes zeros over all that is deleted. With updates
  of 300 kB that was 60 % more bytes, and on flash, which writes elsewhere, it erases nothing.
- cell_size_check=ON and quick_check at the start find damage before it is used.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from qflare.faults import LocalFault
from qflare.host.config import ConfigFault

FIRST_VERSION: Final = 2  # 1 was never released
_PRAGMAS: Final = (
    "page_size=4096",
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "synchronous=FULL",
    "wal_autocheckpoint=1000",
    "journal_size_limit=4194304",
    "secure_delete=OFF",
    "cell_size_check=ON",
    "trusted_schema=OFF",
    "temp_store=MEMORY",
    "cache_size=-512",
)
FILES: Final = ("device.sqlite", "device.sqlite-wal", "device.sqlite-shm", "device.sqlite-journal")

Migration = Callable[[sqlite3.Connection], None]


class StoreFault(LocalFault):
    """The disk refuses. Nothing of what was to be written counts, and it may take it later."""


class StoreFull(StoreFault):
    """There is no room for a transaction; nothing of it was written."""


class StoreReadOnly(ConfigFault, StoreFault):
    """Nothing can be written there: from the start somebody's choice, later a disk that fails."""


class Broken(StoreFault):
    """The database is damaged; whoever opens it anew puts it aside."""


class Database:
    """A connection, its transactions, and its errors in our words."""

    def __init__(self, path: Path, migrations: tuple[Migration, ...]) -> None:
        """Open or create, check, and bring up to date.

        Raises Broken for a damaged file, StoreReadOnly for one that can't be written, StoreFault
        for a disk that fails, LocalFault for a file of a newer QFLARE.
        """
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._translate(error) from None
        try:
            for pragma in _PRAGMAS:
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            path.chmod(0o600)
            self._check()
            self._migrate(migrations)
        except sqlite3.Error as error:
            self.close()
            raise self._translate(error) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with suppress(sqlite3.Error):  # a log that can't be folded in now is folded in later
            self._db.close()

    def query(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows; raise as the constructor does."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._translate(error) from None

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> None:
        """One statement of a transaction, whose errors `transaction` translates."""
        self._db.execute(sql, values)

    def transaction(self, body: Callable[[], None]) -> None:
        """Durable as a whole when this returns; undone as a whole if it raises.

        Raises StoreFault, and what `body` raises.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            body()
            self._db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # a COMMIT that failed may have rolled back by itself
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._translate(error) from None
            raise

    def compact(self) -> None:
        """Write the file anew, so that nothing of what was deleted stays in it or in its log."""
        try:
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            raise self._translate(error) from None

    def _check(self) -> None:
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise Broken(f"{self.path}: {found[0]}")

    def _migrate(self, migrations: tuple[Migration, ...]) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        newest = FIRST_VERSION + len(migrations) - 1
        if version > newest:
            raise LocalFault(f"{self.path} is of a newer QFLARE; install that again")
        if 0 < version < FIRST_VERSION:
            raise LocalFault(f"{self.path} is of a version that was never released; move it away")
        for number in range(max(version + 1, FIRST_VERSION), newest + 1):
            migrate = migrations[number - FIRST_VERSION]
            self._db.execute("BEGIN IMMEDIATE")
            migrate(self._db)
            self._db.execute(f"PRAGMA user_version = {number}")
            self._db.execute("COMMIT")

    def _translate(self, error: sqlite3.Error) -> LocalFault:
        # Errors of the Python module itself have no code.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        says = f"{self.path}: {error}"
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(f"{says}; free some space on that disk")
        lacking = str(error).startswith("no such")  # a table that a damaged schema hides
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or lacking:
            return Broken(says)
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return StoreReadOnly(f"{says}; device.state_dir must be on a disk that can be written")
        return StoreFault(f"{says}; the disk may be failing: `dmesg` says more")
