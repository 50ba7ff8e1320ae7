"""A device's memory on disk: one SQLite file, a guard beside it, and one file per blob.

Everything that must stay in step is written in one transaction: an update in the outbox without
its residual (or the other way round) would lose or double what compression left over, and personal
parameters would be those of another update. What others may have seen of this device is in the
guard too, so that it survives the loss of the database. Blobs are outside, by digest: they can
always be fetched again.
"""

import errno
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edge_runtime.events import Commit, SaveManifest, Settle
from edge_runtime.memory import Fate, Memory
from edge_runtime.state import JOURNAL_KEPT, Past
from edge_runtime.storage import reserve
from edge_runtime.storage.blobs import BLOBS_MAX
from edge_runtime.storage.blobs import BlobGone as BlobGone
from edge_runtime.storage.blobs import Blobs as Blobs
from edge_runtime.storage.database import FILES, Broken, Database, StoreReadOnly
from edge_runtime.storage.database import StoreFault as StoreFault
from edge_runtime.storage.database import StoreFull as StoreFull
from edge_runtime.storage.guard import Guard, Guarded
from edge_runtime.storage.rows import MIGRATIONS, Loss, Rows
from edge_runtime.storage.vault import Damaged, Vault
from qflare import codec
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import ConfigFault
from qflare.host.files import ensure_private_dir, sync_dir, take_lock
from qflare.messages import KIB, ZERO

ASIDE: Final = "damaged"  # the folder of a database that was moved away
GUARD: Final = "guard"
FORGETTING: Final = "forgetting"  # there while `qflare device forget` is at work
_FORMAT: Final = 2  # of a memory's bytes; whoever changes `Memory` reads the older ones here
_NUMBER: Final = struct.Struct(">Q")
_SESSION_BYTES: Final = 8


@dataclass(frozen=True)
class Bounds:
    """How much of the disk a device may take, in bytes."""

    blobs: int = BLOBS_MAX
    reserve: int = 4 * KIB * KIB


class Store:
    """The state directory of one device; only one process may have it open.

    `findings` are sentences for the operator about what had to be mended.
    """

    def __init__(
        self, directory: Path, vault: Vault | None = None, bounds: Bounds | None = None
    ) -> None:
        """Open or create.

        Raises StoreFault if the disk refuses, ConfigFault for a directory that is being erased,
        LocalFault for one in use, of a newer QFLARE, or damaged beyond what can be mended.
        """
        bounds = bounds or Bounds()
        self._dir, self._vault = directory, vault or Vault()
        self.findings: list[str] = []
        self._number = self._session = 0
        self._memory = Memory()
        try:
            ensure_private_dir(directory)
            busy = f"{directory} is in use; stop the other process first"
            self._lock = take_lock(directory / "lock", busy)
        except OSError as error:
            raise refused(directory, error) from None
        try:
            if (directory / FORGETTING).exists():
                raise ConfigFault(f"{directory} is half erased; run `qflare device forget` again")
            self.blobs = Blobs(directory / "blobs", bounds.blobs)
            self._reserve = reserve.Reserve(directory / "reserve", bounds.reserve)
            self._reserve.take()
            self._guard = Guard(directory / GUARD, self._vault)
            self._open()
        except OSError as error:
            os.close(self._lock)
            raise refused(directory, error) from None
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Let go of the directory."""
        self._db.close()
        os.close(self._lock)

    # --- opening -------------------------------------------------------------------------------

    def _open(self) -> None:
        known = self._guard.read()
        try:
            self._connect()
            try:
                self._recall(known)
            except BaseException:
                self._db.close()
                raise
        except (Broken, Damaged) as fault:
            self._start_over(known, str(fault))

    def _connect(self) -> None:
        self._db = Database(self._dir / FILES[0], MIGRATIONS)
        self._rows = Rows(self._db, self._vault)

    def _recall(self, known: list[Guarded]) -> None:
        """Take the memory from the database; Broken unless it is as new as the guard says."""
        value, session = self._rows.fact("memory"), self._rows.fact("session") or b""
        if value is not None:
            (self._number,) = _NUMBER.unpack_from(value)
            self._memory = memory_of(value[_NUMBER.size :])
        if known and known[0].number > self._number + 1:
            raise Broken(f"{self._db.path} is older than what this device has said since")
        sessions = (int.from_bytes(session, "big"), *(slot.session for slot in known))
        self._session = max(sessions)
        if self._number and (not known or known[0].number < self._number):
            self._guard.reset(self._guarded())  # one of its slots, or all of it, was lost

    def _start_over(self, known: list[Guarded], why: str) -> None:
        """Put a damaged database aside and go on from the guard, which has what others may know."""
        if not known:
            raise LocalFault(
                f"{why}; and {self._dir / GUARD} can't be read either: this device can't know "
                "which rounds it has answered. Run `qflare device forget` and enrol it again"
            )
        self._set_aside()
        self._connect()
        self._number, self._session = known[0].number, known[0].session
        self._memory = memory_of(known[0].memory)
        self._transaction(self._put_memory)
        self.findings.append(
            f"{why}; it was moved to {self._dir / ASIDE}. This device still knows the last round "
            f"that it answered, {self._memory.answered_round}, and what it saw of the ledger; an "
            "update that waited to be sent, the residual and personal parameters are lost"
        )

    def _set_aside(self) -> None:
        """Only one such database is kept. The log goes last: alone it means nothing."""
        aside = ensure_private_dir(self._dir / ASIDE)
        for name in FILES:
            (aside / name).unlink(missing_ok=True)
        for name in FILES:
            if (self._dir / name).exists():
                (self._dir / name).replace(aside / name)
        sync_dir(aside)
        sync_dir(self._dir)

    def reseal(self) -> None:
        """Write everything anew under the vault's first key, and leave nothing else behind."""
        self._transaction(self._rows.wrap_again)
        self._db.compact()
        self._guard.reset(self._guarded())
        shutil.rmtree(self._dir / ASIDE, ignore_errors=True)  # maybe from before there was a key

    # --- reading -------------------------------------------------------------------------------

    def load(self) -> Past:
        """Everything that a machine starts from; each call begins a new session."""
        self._session += 1
        self._remember(self._memory, lambda: None)
        outbox, lost_updates = self._rows.outbox()
        journal, lost_entries = self._rows.journal()
        manifest = self._private("manifest")
        self._forget((*lost_updates, *lost_entries))
        parts = self.blobs.parts()
        return Past(
            memory=self._memory,
            manifest=manifest,
            outbox=tuple(outbox),
            journal=tuple(journal),
            blobs=self.blobs.all(),
            parts=parts,
            session=self._session,
        )

    def residual(self) -> bytes | None:
        """What the last compression left over, by `edge_runtime.residual`, if anything."""
        return self._private("residual")

    def personal(self) -> bytes | None:
        """The personal parameters as the last training left them, little-endian float32, if any."""
        return self._private("personal")

    def shortage(self, need: int = 0) -> str | None:
        """Why no round should begin now, which would write `need` bytes; None if there is room.

        Takes the reserve again if it was given up and there is room for it.
        """
        wants = need + reserve.MARGIN
        try:
            whole, free = self._reserve.take(), reserve.free_bytes(self._dir)
        except OSError as error:
            return str(refused(self._dir, error))
        if whole and free >= wants:
            return None
        return (
            f"the disk of {self._dir} is full ({free / 1e6:.1f} MB free, of which a round wants "
            f"{wants / 1e6:.1f}); free some space there"
        )

    def _private(self, name: str) -> bytes | None:
        """A fact that the device can do without."""
        try:
            return self._rows.fact(name)
        except Damaged as fault:
            self._forget([Loss("facts", "name", name, f"the {name} is lost: {fault}")])
            return None

    def _forget(self, losses: "tuple[Loss, ...] | list[Loss]") -> None:
        if not losses:
            return

        def body() -> None:
            for loss in losses:
                self._rows.remove(loss.table, loss.key, loss.value)

        self._transaction(body)
        self.findings += [loss.says for loss in losses]

    # --- writing: StoreFault if the disk refuses, and then nothing has changed -------------------

    def save_memory(self, memory: Memory) -> None:
        if memory != self._memory:
            self._remember(memory, lambda: None)

    def save_manifest(self, effect: SaveManifest) -> None:
        self._remember(effect.memory, lambda: self._rows.put("manifest", effect.manifest))

    def commit(self, effect: Commit) -> None:
        """The update, what training left here, the journal and the memory: all of them or none."""

        def body() -> None:
            self._rows.put_update(effect.entry)
            self._rows.put_entry(effect.journal, JOURNAL_KEPT)
            self._rows.put("residual", effect.residual)
            if effect.personal is None:  # those that may be here are of another model
                self._rows.remove("facts", "name", "personal")
            else:
                self._rows.put("personal", effect.personal)

        self._remember(effect.memory, body)

    def settle(self, effect: Settle) -> None:
        """Note an update's fate; one that waits no longer leaves the outbox."""
        self._transaction(lambda: self._note_fate(effect))

    def _note_fate(self, it: Settle) -> None:
        for entry in self._rows.journal()[0]:
            if entry.update == it.update:
                self._rows.put_entry(replace(entry, fate=it.fate, stats=it.stats), JOURNAL_KEPT)
                for kind, data in it.proofs:
                    self._rows.put_proof(entry.round, kind, data)
        if it.fate is not Fate.WAITING:
            self._rows.remove("outbox", "digest", it.update.raw)

    def _remember(self, memory: Memory, body: Callable[[], None]) -> None:
        """The guard first: what others are about to see must not be lost with the database."""
        before = self._number, self._memory
        self._number, self._memory = self._number + 1, memory

        def whole() -> None:
            body()
            self._put_memory()

        try:
            self._guard.write(self._guarded())
            self._transaction(whole)
        except BaseException as error:
            self._number, self._memory = before
            if isinstance(error, OSError):
                raise refused(self._dir / GUARD, error) from None
            raise

    def _guarded(self) -> Guarded:
        return Guarded(self._number, self._session, _bytes_of(self._memory))

    def _put_memory(self) -> None:
        self._rows.put("memory", _NUMBER.pack(self._number) + _bytes_of(self._memory))
        self._rows.put("session", self._session.to_bytes(_SESSION_BYTES, "big"))

    def _transaction(self, body: Callable[[], None]) -> None:
        """Once more with the reserve given up, if the disk is full."""
        try:
            self._db.transaction(body)
        except StoreFull:
            if not self._reserve.give_up():
                raise
            self._db.transaction(body)


def _bytes_of(memory: Memory) -> bytes:
    return bytes([_FORMAT]) + memory.to_bytes()


def memory_of(data: bytes) -> Memory:
    """Raise LocalFault for a memory of another version: its checksum was right, so it is whole."""
    with suppress(PeerFault):
        if data[:1] == bytes([_FORMAT]):
            return Memory.parse(data[1:])
        if data[:1] == b"\1":  # before owners could change
            value = codec.decode(data[1:], Memory.CEILING)
            return Memory.from_value([*value, 0, ZERO.raw] if isinstance(value, list) else value)
    raise LocalFault("the memory of this device is of a newer QFLARE; install that again")


def refused(path: Path, error: OSError) -> StoreFault:
    """What a disk said, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{path}: {error.strerror}; free some space on that disk")
    if error.errno in (errno.EIO, errno.EUCLEAN, errno.ENODEV):
        return StoreFault(f"{path}: {error.strerror}; the disk is failing: `dmesg` says more")
    return StoreReadOnly(
        f"{path}: {error.strerror}; device.state_dir must be on a disk that this user can write, "
        "also where the root file system is read-only"
    )
