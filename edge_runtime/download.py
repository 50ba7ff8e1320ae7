"""Blobs by their digest: which chunks are missing, what to ask for, when to ask again. Pure.

A device knows a blob's digest and a ceiling, not always its size, and chunks come in any order,
twice, or for everybody. Whatever is the right prefix is recognised by its digest, so the end needs
no announcement. Only one thing can be wrong with a chunk that has the right size, and it shows at
the end: then everything is dropped and asked for again.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from qflare.faults import PeerFault, Reason
from qflare.messages import KIB
from qflare.names import Digest
from qflare.transfer import AskBlob

CHUNK_SIZES = (64 * KIB, 256 * KIB)  # of every chunk but the last
WINDOW = 8  # chunks asked for and not here yet
SILENCE_S = 4.0  # after which a chunk is asked for again
MISSES = 5  # such silences in a row, and what came so far is doubted too
FANOUT_S = 2.0  # how long a new model's chunks may come by themselves before we ask


@dataclass
class Download:
    """One wanted blob."""

    blob: Digest
    ceiling: int  # bytes; more than this is not the blob
    ask_from: float  # Unix seconds
    began: float
    chunks: dict[int, bytes] = field(default_factory=dict, repr=False)
    asked: dict[int, float] = field(default_factory=dict)
    _misses: int = 0
    _bytes: int = 0
    _ready: int = 0  # chunks 0…_ready-1 are hashed
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    def take(self, index: int, payload: bytes) -> bytes | None:
        """Take a chunk; return the blob once it is whole.

        Raises PeerFault: TOO_LARGE, MALFORMED for a chunk that can't belong, WRONG_DIGEST when
        all is there and it isn't the blob (then everything was dropped).
        """
        if index in self.chunks or not payload:  # empty: there is no such chunk
            return None
        self._verify_place(index, payload)
        if self._bytes + len(payload) > self.ceiling:
            self.restart()
            raise PeerFault(Reason.TOO_LARGE, f"blob {self.blob.short} is above {self.ceiling}")
        self.chunks[index] = payload
        self._bytes += len(payload)
        self._misses = 0
        self.asked.pop(index, None)
        return self._advance()

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
        self._bytes = self._ready = 0
        self._hash = hashlib.sha256()

    def ask(self, now: float) -> AskBlob | None:
        """The next chunks to ask for, if it is time; the first one alone tells the chunk size."""
        if now < self.ask_from:
            return None
        self.asked = {i: at for i, at in self.asked.items() if now - at < SILENCE_S}
        first = self.chunks.get(0)
        if first is None:
            wanted = [0]
        else:
            last = -(-self.ceiling // len(first))
            reach = range(self._ready, min(self._ready + WINDOW, last))
            wanted = [i for i in reach if i not in self.chunks]
        due = tuple(i for i in wanted if i not in self.asked)
        if not due:
            return None
        self._misses += 1
        if self._misses > MISSES:
            self._misses = 0
            self.restart()
        self.asked.update(dict.fromkeys(due, now))
        return AskBlob(self.blob, due)


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

    def take(self, blob: Digest, index: int, payload: bytes) -> bytes | None:
        """Take a chunk of any blob; unwanted ones are ignored. See Download.take."""
        download = self._wanted.get(blob)
        if download is None:
            return None
        whole = download.take(index, payload)
        if whole is not None:
            del self._wanted[blob]
        return whole

    def asks(self, now: float) -> list[AskBlob]:
        """What to ask for now."""
        return [ask for d in self._wanted.values() if (ask := d.ask(now)) is not None]

    def reconnect(self) -> None:
        """What was asked for on a connection that ended will not come."""
        for download in self._wanted.values():
            download.asked.clear()
