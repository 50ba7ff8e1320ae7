"""The outbox's half of a transfer: offer, send what is granted, offer again. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.memory import OutboxEntry
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
    began: float
    offered: float = _NEVER
    granted: float = _NEVER

    def offer(self, now: float) -> TransferOffer | None:
        """The offer, if it is time to say it (again)."""
        if now - self.offered < REOFFER_S or now - self.granted < SILENCE_S:
            return None
        self.offered = now
        entry = self.entry
        return TransferOffer(entry.update, entry.round, len(entry.data), entry.chunk)

    def take(self, grant: Grant, now: float) -> list[tuple[int, bytes]]:
        """The granted chunks; raise PeerFault(BAD_VALUE) for one that doesn't exist."""
        chunk, data = self.entry.chunk, self.entry.data
        count = -(-len(data) // chunk)
        if any(i >= count for i in grant.indices):
            raise PeerFault(Reason.BAD_VALUE, f"grant for a chunk beyond {count - 1}")
        self.granted = now
        return [(i, data[i * chunk : (i + 1) * chunk]) for i in dict.fromkeys(grant.indices)]


class Uploads:
    """The outbox, as far as sending goes."""

    def __init__(self, entries: Iterable[OutboxEntry] = (), now: float = 0.0) -> None:
        self._uploads = {entry.update: Upload(entry, now) for entry in entries}

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

    def offers(self, now: float) -> list[TransferOffer]:
        """What to offer now."""
        return [offer for u in self._uploads.values() if (offer := u.offer(now)) is not None]

    def again(self) -> None:
        """A new connection or a coordinator that started anew: offer everything at once."""
        for upload in self._uploads.values():
            upload.offered = upload.granted = _NEVER

    def grant(self, grant: Grant, now: float) -> list[tuple[int, bytes]]:
        """Chunks to send; a grant for what is no longer here is late, not wrong."""
        upload = self._uploads.get(grant.transfer)
        return upload.take(grant, now) if upload else []
