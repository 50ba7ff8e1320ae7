"""Blobs by their digest: which chunks are missing, what to ask for, when to ask again. Pure.

A device knows a blob's digest and a ceiling, not always its size, and chunks come in any order,
twice, or for everybody. Whatever is the right prefix is recognised by its digest, so the end needs
no announcement. Only one thing can be wrong with a chunk that has the right size, and it shows at
the end: then everything is dropped and asked for again.

What came in one piece from the beginning is handed out to be put by on the disk, a megabyte at a
time, so that a restart goes on from there, and a model of any size takes little memory.
"""

import hashlib
from collections.abc import Iterable, Mapping
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
EARLY = 4 * WINDOW  # chunks that are kept ahead of one that is missing
# Bytes that are put by at a time. Each piece costs the file system a few blocks of its journal.
PIECE = 1024 * KIB


@dataclass(frozen=True)
class Part:
    """The beginning of a blob that an earlier run put by: `count` chunks of `chunk` bytes."""

    chunk: int
    count: int
    hash: "hashlib._Hash" = field(repr=False)


@dataclass(frozen=True)
class Piece:
    """Bytes of a blob from `offset` on, to be written behind those that were handed out before."""

    chunk: int  # bytes of each chunk in it, but the blob's last
    offset: int
    data: bytes = field(repr=False)
    last: bool  # the blob is whole, and has the right digest


@dataclass
class Download:
    """One wanted blob."""

    blob: Digest
    ceiling: int  # bytes; more than this is not the blob
    ask_from: float  # seconds of the device's steady clock
    asked: dict[int, float] = field(default_factory=dict)
    # As TCP does it: a slow link is asked for less at a time, and waited for longer.
    window: int = WINDOW_FIRST
    silence: float = SILENCE_S
    _since: dict[int, float] = field(default_factory=dict)  # when each was asked for first
    _misses: int = 0
    _chunk: int = 0  # bytes of every chunk but the last; 0: the first one isn't here
    _bytes: int = 0
    _early: dict[int, bytes] = field(default_factory=dict, repr=False)  # after a missing one
    _fresh: list[bytes] = field(default_factory=list, repr=False)  # hashed, not handed out
    _out: int = 0  # bytes that were handed out
    _ready: int = 0  # chunks 0…_ready-1 are hashed
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    def resume(self, part: Part) -> None:
        """Go on from what an earlier run put by."""
        self._chunk, self._ready, self._hash = part.chunk, part.count, part.hash.copy()
        self._bytes = self._out = part.chunk * part.count

    def take(self, index: int, payload: bytes, now: float) -> Piece | None:
        """Take a chunk; return what is to be written now, if anything.

        Raises PeerFault: TOO_LARGE, MALFORMED for a chunk that can't belong, WRONG_DIGEST when
        all is there and it isn't the blob (then everything was dropped).
        """
        if not payload:  # the blob ends before this chunk
            self._end(index)
            return None
        if index < self._ready or index in self._early or index >= self._ready + EARLY:
            return None
        self._verify_place(index, payload)
        if self._bytes + len(payload) > self.ceiling:
            self.restart()
            raise PeerFault(Reason.TOO_LARGE, f"blob {self.blob.short} is above {self.ceiling}")
        self._early[index] = payload
        self._bytes += len(payload)
        self._chunk = self._chunk or (len(payload) if index == 0 else 0)
        self._misses = 0
        if self.asked.pop(index, None) is not None:
            # Since the first time: rather too long than too short.
            took = now - self._since.pop(index, now)
            self.silence = min(max(SILENCE_S, 2 * took), SILENCE_MAX_S)
            self.window = min(WINDOW, self.window + 1)
        return self._advance()

    def asked_at(self, index: int) -> float | None:
        """When this chunk was asked for first, if it still is asked for."""
        return self._since.get(index) if index in self.asked else None

    def _end(self, index: int) -> None:
        """Doubt what came if it reaches to the blob's end and isn't the blob."""
        if 0 < self._ready >= index:
            self.restart()
            raise PeerFault(Reason.WRONG_DIGEST, f"not the blob {self.blob.short}")

    def _verify_place(self, index: int, payload: bytes) -> None:
        if len(payload) > max(CHUNK_SIZES) or index * min(CHUNK_SIZES) >= self.ceiling:
            raise PeerFault(Reason.MALFORMED, f"chunk {index} of {len(payload)} bytes")
        if self._chunk and len(payload) > self._chunk:
            self.restart()  # one of the two is wrong, and it may be the first
            raise PeerFault(Reason.MALFORMED, f"chunk {index} is longer than the first")

    def _advance(self) -> Piece | None:
        while (chunk := self._early.pop(self._ready, None)) is not None:
            self._hash.update(chunk)
            self._fresh.append(chunk)
            self._ready += 1
            if self._hash.digest() == self.blob.raw:
                return self._hand_out(last=True)
            last = self._chunk not in CHUNK_SIZES or len(chunk) < self._chunk
            if last or self._ready * self._chunk >= self.ceiling:
                self.restart()
                raise PeerFault(Reason.WRONG_DIGEST, f"not the blob {self.blob.short}")
        if sum(map(len, self._fresh)) >= PIECE:
            return self._hand_out(last=False)
        return None

    def _hand_out(self, last: bool) -> Piece:
        piece = Piece(self._chunk, self._out, b"".join(self._fresh), last)
        self._out += len(piece.data)
        self._fresh.clear()
        return piece

    def restart(self) -> None:
        """Drop what came; what was asked for stays noted, so that asking keeps its pace."""
        self._early.clear()
        self._fresh.clear()
        self._since.clear()
        self._chunk = self._bytes = self._out = self._ready = 0
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
        if not self._chunk:
            wanted, size = [0], min(CHUNK_SIZES)
        else:
            size = self._chunk
            last = -(-self.ceiling // size)
            reach = range(self._ready, min(self._ready + WINDOW, last))
            wanted = [i for i in reach if i not in self._early]
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

    def __init__(self, parts: Mapping[Digest, Part] | None = None) -> None:
        """`parts` are what earlier runs put by."""
        self._wanted: dict[Digest, Download] = {}
        self._parts = dict(parts or {})

    def __contains__(self, blob: object) -> bool:
        return blob in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, blob: Digest, ceiling: int, now: float, patience: float = 0.0) -> int:
        """Start to fetch a blob, `patience` seconds from now; fetching it already is fine.

        Returns how many bytes of it an earlier run put by.
        """
        if blob in self._wanted:
            return 0
        download = self._wanted[blob] = Download(blob, ceiling, now + patience)
        part = self._parts.pop(blob, None)
        if part is None or part.chunk * part.count >= ceiling:
            return 0
        download.resume(part)
        return part.chunk * part.count

    def keep(self, blobs: Iterable[Digest]) -> bool:
        """Forget every download but these; was there one that is forgotten?"""
        kept = set(blobs)
        known = len(self._wanted) + len(self._parts)
        self._wanted = {blob: d for blob, d in self._wanted.items() if blob in kept}
        self._parts = {blob: part for blob, part in self._parts.items() if blob in kept}
        return len(self._wanted) + len(self._parts) < known

    def drop(self, blob: Digest) -> None:
        """What came of a blob is lost, or could not be put by."""
        self._wanted.pop(blob, None)
        self._parts.pop(blob, None)

    def take(self, blob: Digest, index: int, payload: bytes, now: float) -> Piece | None:
        """Take a chunk of any blob; unwanted ones are ignored. See Download.take."""
        download = self._wanted.get(blob)
        if download is None:
            return None
        piece = download.take(index, payload, now)
        if piece is not None and piece.last:
            del self._wanted[blob]
        return piece

    def asked_at(self, blob: Digest, index: int) -> float | None:
        """When this chunk was asked for first, if it still is asked for."""
        download = self._wanted.get(blob)
        return None if download is None else download.asked_at(index)

    def asks(self, now: float, limit: Bucket) -> list[AskBlob]:
        """What to ask for now."""
        return [ask for d in self._wanted.values() if (ask := d.ask(now, limit)) is not None]

    def reconnect(self) -> None:
        """What was asked for on a connection that ended will not come."""
        for download in self._wanted.values():
            download.asked.clear()
            download._since.clear()
            download.window, download.silence = WINDOW_FIRST, SILENCE_S
