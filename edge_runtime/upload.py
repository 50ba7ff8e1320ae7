"""The outbox's half of a transfer: offer, send what is granted, offer again. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edge_runtime.memory import OutboxEntry
from edge_runtime.traffic import Bucket
from qflare.faults import PeerFault, Reason
from qflare.names import Digest
from qflare.transfer import Grant, TransferOffer

REOFFER_S = 3.0  # while nobody grants
SILENCE_S = 10.0  # after the last grant, without another one and without a receipt
_NEVER = float("-inf")


@dataclass
class Upload:
    """One outbox entry on its way."""

    entry: OutboxEntry
    began: float | None  # None: in an earlier run of the device
    offered: float = _NEVER
    granted: float = _NEVER
    granted_chunks: dict[int, None] = field(default_factory=dict)  # and not sent yet, in order

    def offer(self, now: float) -> TransferOffer | None:
        """The offer, if it is time to say it (again)."""
        if now - self.offered < REOFFER_S or now - self.granted < SILENCE_S:
            return None
        if self.granted_chunks:  # our own limit holds them up, not the other side
            return None
        self.offered = now
        entry = self.entry
        return TransferOffer(entry.update, entry.round, len(entry.data), entry.chunk)

    def take(self, grant: Grant, now: float) -> None:
        """Note what is granted; raise PeerFault(BAD_VALUE) for a chunk that doesn't exist."""
        count = -(-len(self.entry.data) // self.entry.chunk)
        if any(i >= count for i in grant.indices):
            raise PeerFault(Reason.BAD_VALUE, f"grant for a chunk beyond {count - 1}")
        self.granted = now
        self.granted_chunks |= dict.fromkeys(grant.indices)

    def due(self, limit: Bucket, now: float) -> Iterator[tuple[int, bytes]]:
        """The granted chunks that may go now."""
        chunk, data = self.entry.chunk, self.entry.data
        for i in list(self.granted_chunks):
            piece = data[i * chunk : (i + 1) * chunk]
            if not limit.take(len(piece), now):
                return
            del self.granted_chunks[i]
            self.granted = now
            yield i, piece


class Uploads:
    """The outbox, as far as sending goes."""

    def __init__(self, entries: Iterable[OutboxEntry] = ()) -> None:
        self._uploads = {entry.update: Upload(entry, None) for entry in entries}

    def __len__(self) -> int:
        return len(self._uploads)

    def put(self, entry: OutboxEntry, now: float) -> None:
        self._uploads[entry.update] = Upload(entry, now)

    def get(self, update: Digest) -> Upload | None:
        return self._uploads.get(update)

    def drop(self, update: Digest) -> Upload | None:
        return self._uploads.pop(update, None)

    def before(self, round_: int) -> list[OutboxEntry]:
        """Entries of rounds before this one."""
        return [u.entry for u in self._uploads.values() if u.entry.round < round_]

    def oldest(self, but: int) -> list[OutboxEntry]:
        """Entries that are older than the newest `but` ones."""
        entries = sorted((u.entry for u in self._uploads.values()), key=lambda e: e.round)
        return entries[:-but]

    def offers(self, now: float) -> list[TransferOffer]:
        """What to offer now."""
        return [offer for u in self._uploads.values() if (offer := u.offer(now)) is not None]

    def again(self) -> None:
        """A new connection or a coordinator that started anew: offer everything at once."""
        for upload in self._uploads.values():
            upload.offered = upload.granted = _NEVER
            upload.granted_chunks.clear()

    def grant(self, grant: Grant, now: float) -> None:
        """Chunks may be sent; a grant for what is no longer here is late, not wrong."""
        upload = self._uploads.get(grant.transfer)
        if upload is not None:
            upload.take(grant, now)

    def due(self, limit: Bucket, now: float) -> Iterator[tuple[Digest, int, bytes]]:
        """Update, index and bytes of the chunks that may go now, the oldest update's first."""
        for update, upload in self._uploads.items():
            for index, piece in upload.due(limit, now):
                yield update, index, piece
