"""The device's memory once more, beside the database: what must survive the loss of that.

A device that forgets which round it answered could answer it twice, and one that forgets the
ledger could be told another story. So each change of the memory is written here first, then in
the database. The file has two slots that are written in turns and never grow: whatever is torn by
a power cut, the other slot is whole, and a write costs one block and one flush.

Slot n is overwritten only after the database has n + 1. So of two slots, the older one was
certainly committed; the newer one may be one step ahead of what the database knows.
"""

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.storage.vault import Damaged, Vault
from qflare.faults import LocalFault
from qflare.host.files import read_bounded, write_atomic

SLOT: Final = 8192  # bytes; a memory has at most 4 KiB
_BLOCK: Final = 4096  # what flash and file systems write at least
_HEAD: Final = struct.Struct(">8sQI")
_MAGIC: Final = b"QFGUARD1"
_SUM: Final = 16
_SESSION: Final = struct.Struct(">Q")


@dataclass(frozen=True)
class Guarded:
    """One slot's content. `number` counts the changes of the memory."""

    number: int
    session: int
    memory: bytes


class Guard:
    """The two slots of one file."""

    def __init__(self, path: Path, vault: Vault) -> None:
        self._path, self.vault = path, vault

    def read(self) -> list[Guarded]:
        """What can be read, newest first; empty if there is no file, or nothing in it is right.

        Raises OSError if the file system refuses.
        """
        try:
            data = read_bounded(self._path, 2 * SLOT)
        except (FileNotFoundError, LocalFault):
            return []
        found = [slot for at in (0, SLOT) if (slot := self._parse(data[at : at + SLOT]))]
        return sorted(found, key=lambda slot: slot.number, reverse=True)

    def write(self, it: Guarded) -> None:
        """Put it in its slot, durably; raise OSError if the file system refuses."""
        slot = self._build(it)
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._create(it.number, slot)
            return
        try:
            if os.fstat(file).st_size != 2 * SLOT:
                self._create(it.number, slot)
                return
            _write_all(file, slot, it.number % 2 * SLOT)
            os.fdatasync(file)  # the size is the same: there is nothing else to flush
        finally:
            os.close(file)

    def reset(self, it: Guarded) -> None:
        """Leave nothing but this, as after a change of keys."""
        self._create(it.number, self._build(it))

    def _create(self, number: int, slot: bytes) -> None:
        data = bytearray(2 * SLOT)
        at = number % 2 * SLOT
        data[at : at + len(slot)] = slot
        write_atomic(self._path, bytes(data))

    def _build(self, it: Guarded) -> bytes:
        wrapped = self.vault.wrap(_place(it.number), _SESSION.pack(it.session) + it.memory)
        head = _HEAD.pack(_MAGIC, it.number, len(wrapped))
        data = head + wrapped
        data += hashlib.blake2b(data, digest_size=_SUM).digest()
        if len(data) > SLOT:
            raise LocalFault(f"a memory of {len(it.memory)} bytes is too long; please report this")
        return data + bytes(-len(data) % _BLOCK)

    def _parse(self, slot: bytes) -> Guarded | None:
        if len(slot) < _HEAD.size:
            return None
        magic, number, length = _HEAD.unpack_from(slot)
        end = _HEAD.size + length
        if magic != _MAGIC or end + _SUM > len(slot):
            return None
        if hashlib.blake2b(slot[:end], digest_size=_SUM).digest() != slot[end : end + _SUM]:
            return None
        try:
            data = self.vault.unwrap(_place(number), slot[_HEAD.size : end])
        except Damaged:
            return None
        if len(data) < _SESSION.size:
            return None
        (session,) = _SESSION.unpack_from(data)
        return Guarded(number, session, data[_SESSION.size :])


def _place(number: int) -> bytes:
    return b"guard/%d" % number


def _write_all(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done
