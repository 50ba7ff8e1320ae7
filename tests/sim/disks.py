"""What outlives a killed process, in memory: the device's store, the coordinator's spool and blobs.

The coordinator's database is the real one, on SQLite's `:memory:`.
"""

from collections.abc import Iterable
from dataclasses import replace

from edge_runtime import events as ev
from edge_runtime.memory import Fate
from edge_runtime.state import JOURNAL_KEPT, Past
from qflare.messages import CHUNK_MAX, ZERO
from qflare.names import DeviceId, Digest


class EdgeDisk:
    """The durable part of a device."""

    def __init__(self) -> None:
        self.past = Past(session=0)
        self.residual: bytes | None = None
        self.personal: bytes | None = None
        self.blobs: dict[Digest, bytes] = {}

    def load(self) -> Past:
        """What a machine starts from; each time another session."""
        self._set(session=self.past.session + 1, blobs=frozenset(self.blobs))
        return self.past

    def perform(self, effect: ev.Effect) -> None:
        past = self.past
        match effect:
            case ev.SaveMemory(memory):
                self._set(memory=memory)
            case ev.SaveManifest(manifest, memory):
                self._set(manifest=manifest, memory=memory)
            case ev.Commit(entry, journal, residual, memory, personal):
                kept = sorted((*past.journal, journal), key=lambda e: e.round)[-JOURNAL_KEPT:]
                assert journal.round not in {e.round for e in past.journal}, "answered twice"
                self._set(outbox=(*past.outbox, entry), journal=tuple(kept), memory=memory)
                self.residual, self.personal = residual, personal
            case ev.Settle(update, fate, stats):
                self._set(
                    journal=tuple(
                        replace(e, fate=fate, stats=stats) if e.update == update else e
                        for e in past.journal
                    )
                )
                if fate is not Fate.WAITING:
                    self._set(outbox=tuple(e for e in past.outbox if e.update != update))
            case ev.StoreBlob(blob, data):
                assert Digest.of(data) == blob
                self.blobs[blob] = data
            case ev.KeepBlobs(blobs):
                self.blobs = {blob: data for blob, data in self.blobs.items() if blob in blobs}

    def _set(self, **changes: object) -> None:
        self.past = replace(self.past, **changes)  # type: ignore[arg-type]


class BlobDisk:
    """Blobs by digest, as coordinator.models.ModelStore keeps them."""

    def __init__(self, blobs: Iterable[bytes]) -> None:
        self.blobs = {Digest.of(blob): blob for blob in blobs}

    def put(self, data: bytes) -> Digest:
        self.blobs[Digest.of(data)] = data
        return Digest.of(data)

    def read(self, digest: Digest) -> bytes:
        return b"" if digest == ZERO else self.blobs[digest]

    def read_chunk(self, digest: Digest, index: int) -> bytes:
        return self.blobs[digest][index * CHUNK_MAX : (index + 1) * CHUNK_MAX]

    def keep(self, digests: Iterable[Digest]) -> None:
        kept = set(digests)
        self.blobs = {digest: data for digest, data in self.blobs.items() if digest in kept}


class SpoolDisk:
    """Updates by device and digest, as coordinator.spool.Spool keeps them."""

    def __init__(self) -> None:
        self.whole: dict[tuple[DeviceId, Digest], bytes] = {}
        self._parts: dict[tuple[DeviceId, Digest], bytearray] = {}

    def start(self, device: DeviceId, transfer: Digest, size: int) -> None:
        self.drop(device, transfer)
        self._parts[device, transfer] = bytearray(size)

    def write(self, device: DeviceId, transfer: Digest, offset: int, data: bytes) -> None:
        part = self._parts.get((device, transfer))
        if part is not None:
            part[offset : offset + len(data)] = data

    def finish(self, device: DeviceId, transfer: Digest) -> bytes | None:
        part = self._parts.pop((device, transfer), None)
        if part is None:
            return None
        self.whole[device, transfer] = bytes(part)
        return self.whole[device, transfer]

    def read(self, device: DeviceId, transfer: Digest) -> bytes:
        return self.whole[device, transfer]

    def drop(self, device: DeviceId, transfer: Digest) -> None:
        self._parts.pop((device, transfer), None)
        self.whole.pop((device, transfer), None)

    def restart(self, kept: set[tuple[DeviceId, Digest]]) -> None:
        """What a new process finds, after it threw away what nobody needs."""
        self._parts.clear()
        self.whole = {name: data for name, data in self.whole.items() if name in kept}
