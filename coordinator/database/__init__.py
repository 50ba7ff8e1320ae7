"""What the coordinator remembers: SQLite in WAL mode, every commit on the disk when it returns."""

from coordinator.database.store import RoundRow, Snapshot, Store, UpdateRow

__all__ = ["RoundRow", "Snapshot", "Store", "UpdateRow"]
