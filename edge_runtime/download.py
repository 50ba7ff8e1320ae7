"""Blobs by their digest: which chunks are missing, what to ask for, when to ask again. Pure.

A device knows a blob's digest and a ceiling, not always its size, and chunks come in any order,
twice, or for everybody. Whatever is the right prefix is recognised by its digest, so the end needs
no announcement. Only one thing can be wrong with a chunk that has the right size, and it shows at
the end: then everything is dropped and asked for again.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from edge_runtime.traffic import Bucket
from qflare.faults import PeerFault, Reason
from qflare.messages import KIB
from qflare.names import Digest
from qflare.transfer import AskBlob

CHUNK_SIZES = (64 * KIB, 256 * KIB)  # of every chunk but the last
WINDOW = 8  # chunks asked for and not here yet, at most
WINDOW_FIRST = 2
SILENCE_S = 4.0  # after which a chunk is asked for again, at least
SILENCE_MAX_S = 60.0
MISSES = 5  # such silences in a row, and what came so far is doubted too
FANOUT_S = 2.0  # how long a new model's chunks may come by themselves before we ask


@dataclass
class Download:
    """One wanted blob."""

    blob: Digest
    ceiling: int  # bytes; more than this is not the blob
    ask_from: float  # seconds of the device's steady clock
    began: float
    chunks: dict[int, bytes] = field(default_factory=dict, repr=False)
    asked: dict[int, float] = field(default_factory=dict)
    # As TCP does it: a slow link is asked for less at a time, and waited for longer.
    window: int = WINDOW_FIRST
    silence: float = SILENCE_S
    _since: dict[int, float] = field(default_factory=dict)  # when each was asked for first
    _misses: int = 0
    _bytes: int = 0
    _ready: int = 0  # chunks 0…_ready-1 are hashed
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    def take(self, index: int, payload: bytes, now: float) -> bytes | None:
        """Take a chunk; return the blob once it is whole.

        Raises PeerFault: TOO_LARGE, MALFORMED for a chunk that can't belong, WRONG_DIGEST when
        all is there and it isn't the blob (then everything was dropped).
        """
        if not payload:  # the blob ends before this chunk
            self._end(index)
            return None
        if index in self.chunks:
            return None
        self._verify_place(index, payload)
        if self._bytes + len(payload) > self.ceiling:
            self.restart()
            raise PeerFault(Reason.TOO_LARGE, f"blob {self.blob.short} is above {self.ceiling}")
        self.chunks[index] = payload
        self._bytes += len(payload)
        self._misses = 0
        if self.asked.pop(index, None) is not None:
            # Since the first time: rather too long than too short.
            took = now - self._since.pop(index, now)
            self.silence = min(max(SILENCE_S, 2 * took), SILENCE_MAX_S)
            self.window = min(WINDOW, self.window + 1)
        return self._advance()

    def _end(self, index: int) -> None:
        """Doubt what came if it reaches to the blob's end and isn't the blob."""
        if 0 < self._ready >= index:
            self.restart()
            raise PeerFault(Reason.WRONG_DIGEST, f"not the blob {self.blob.short}")

    def _verify_place(self, index: int, payload: bytes) -> None:
        first = self.chunks.get(0)
        if len(payload) > max(CHUNK_SIZES) or index * min(CHUNK_SIZES) >= self.ceiling:
            raise PeerFault(Reason.MALFORMED, f"chunk {index} of {len(payload)} bytes")
        if first is not None and len(payload) > len(first):
            self.restart()  # one of the two is wrong, and it may be the first
            raise PeerFault(Reason.MALFORMED, f"chunk {index} is longer than the first")

    def _advance(self) -> bytes | None:
        while (chunk := self.chunks.get(self._ready)) is not None:
            self._hash.update(chunk)
            self._ready += 1
            if self._hash.digest() == self.blob.raw:
                return b"".join(self.chunks[i] for i in range(self._ready))
            size = len(self.chunks[0])
            last = size not in CHUNK_SIZES or len(chunk) < size
            if last or self._ready * size >= self.ceiling:
                self.restart()
                raise PeerFault(Reason.WRONG_DIGEST, f"not the blob {self.blob.short}")
        return None

    def restart(self) -> None:
        """Drop what came; what was asked for stays noted, so that asking keeps its pace."""
        self.chunks.clear()
        self._since.clear()
        self._bytes = self._ready = 0
        self._hash = hashlib.sha256()

    def ask(self, now: float, limit: Bucket) -> AskBlob | None:
        """The next chunks to ask for, if it is time; the first one alone tells the chunk size."""
        if now < self.ask_from:
            return None
        waiting = {i: at for i, at in self.asked.items() if now - at < self.silence}
        if len(waiting) < len(self.asked):
            self.window = max(1, self.window // 2)
            self.silence = min(2 * self.silence, SILENCE_MAX_S)
        self.asked = waiting
        first = self.chunks.get(0)
        if first is None:
            wanted, size = [0], min(CHUNK_SIZES)
        else:
            size = len(first)
            last = -(-self.ceiling // size)
            reach = range(self._ready, min(self._ready + WINDOW, last))
            wanted = [i for i in reach if i not in self.chunks]
        room = max(0, self.window - len(self.asked))
        due = [i for i in wanted if i not in self.asked][:room]
        due = due[: next((n for n in range(len(due)) if not limit.take(size, now)), len(due))]
        if not due:
            return None
        self._misses += 1
        if self._misses > MISSES:
            self._misses = 0
            self.restart()
        self.asked.update(dict.fromkeys(due, now))
        for i in due:
            self._since.setdefault(i, now)
        return AskBlob(self.blob, tuple(due))


class Downloads:
    """All blobs that are wanted now."""

    def __init__(self) -> None:
        self._wanted: dict[Digest, Download] = {}

    def __contains__(self, blob: object) -> bool:
        return blob in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, blob: Digest, ceiling: int, now: float, patience: float = 0.0) -> None:
        """Start to fetch a blob, `patience` seconds from now; fetching it already is fine."""
        if blob not in self._wanted:
            self._wanted[blob] = Download(blob, ceiling, now + patience, now)

    def keep(self, blobs: Iterable[Digest]) -> None:
        """Forget every download but these."""
        kept = set(blobs)
        self._wanted = {blob: d for blob, d in self._wanted.items() if blob in kept}

    def take(self, blob: Digest, index: int, payload: bytes, now: float) -> bytes | None:
        """Take a chunk of any blob; unwanted ones are ignored. See Download.take."""
        download = self._wanted.get(blob)
        if download is None:
            return None
        whole = download.take(index, payload, now)
        if whole is not None:
            del self._wanted[blob]
        return whole

    def asks(self, now: float, limit: Bucket) -> list[AskBlob]:
        """What to ask for now."""
        return [ask for d in self._wanted.values() if (ask := d.ask(now, limit)) is not None]

    def reconnect(self) -> None:
        """What was asked for on a connection that ended will not come."""
        for download in self._wanted.values():
            download.asked.clear()
            download._since.clear()
            download.window, download.silence = WINDOW_FIRST, SILENCE_S
