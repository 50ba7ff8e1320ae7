"""Files named by their SHA-256: models, which can always be fetched again.

    <digest>                whole
    .<digest>.<chunk>.part  the beginning of one that is being fetched: whole chunks, unless torn

A part is written on without a flush: what a power cut takes of it is fetched again, and what it
leaves of it is worth no more than its digest in the end.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_runtime.download import CHUNK_SIZES, Part, Piece
from edge_runtime.storage.reserve import MARGIN, free_bytes
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import ensure_private_dir, read_bounded, sync_dir, write_atomic
from qflare.messages import BLOB_MAX
from qflare.names import Digest

BLOBS_MAX: Final = 2 * 1024**3  # bytes of all blobs, if nobody says otherwise
_PART: Final = re.compile(r"\.([0-9a-f]{64})\.(\d{1,7})\.part")


class BlobGone(LocalFault):
    """A blob is missing or damaged; it has to be fetched again."""

    def __init__(self, blob: Digest, why: str) -> None:
        super().__init__(f"blob {blob.short}: {why}; it will be fetched again")
        self.blob = blob


class Blobs:
    """A directory of blobs. Reading is safe from any thread, and from another process."""

    def __init__(self, directory: Path, limit: int = BLOBS_MAX) -> None:
        """`limit`: bytes of all blobs together; what would exceed it is refused."""
        self._dir, self._limit = ensure_private_dir(directory), limit
        for rest in self._dir.glob(".*.tmp"):  # of a crash while writing
            rest.unlink()

    def all(self) -> frozenset[Digest]:
        """What is there, by name; `read` checks the content."""
        found = set()
        for file in self._dir.iterdir():
            with suppress(PeerFault):
                found.add(Digest.parse(file.name))
        return frozenset(found)

    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(file.lstat().st_size for file in self._dir.iterdir())

    def parts(self) -> dict[Digest, Part]:
        """What was put by of blobs that aren't whole, hashed; what makes no sense is removed."""
        found: dict[Digest, Part] = {}
        for file in sorted(self._dir.iterdir()):
            named = _PART.fullmatch(file.name)
            if named is None:
                continue
            blob, chunk = Digest.parse(named[1]), int(named[2])
            part = _hashed(file, chunk) if chunk in CHUNK_SIZES and blob not in found else None
            if part is None or (self._dir / str(blob)).exists():
                _remove(file)
            elif part.hash.digest() == blob.raw:  # power went just before its last step
                with suppress(OSError):
                    self._finish(file, blob, part.chunk * part.count)
            else:
                found[blob] = part
        return found

    def put_by(self, blob: Digest, piece: Piece, size: int) -> None:
        """Write on at the beginning of a blob, which has `size` bytes, 0 if that isn't known.

        Raises BlobGone if there is no room for the whole, or not the beginning that goes before;
        then nothing of the blob is left.
        """
        path = self._dir / f".{blob}.{piece.chunk}.part"
        more = max(size - piece.offset, len(piece.data))
        try:
            self._verify_room(blob, more)
            if free_bytes(self._dir) < more + MARGIN:
                raise BlobGone(blob, f"there is no room for {more / 1e6:.1f} MB; free some space")
            if not piece.offset:
                self._drop_parts(blob)
            self._write_on(path, blob, piece.offset, piece.data)
        except OSError as error:
            self._drop_parts(blob)
            raise BlobGone(blob, f"cannot be written: {error.strerror}") from None
        except BlobGone:
            self._drop_parts(blob)
            raise

    def write(self, blob: Digest, data: bytes, offset: int = 0) -> None:
        """Keep a blob durably: `data` behind the `offset` bytes that were put by.

        Raises BlobGone if the disk refuses, or the limit does; or if what was put by is gone.
        """
        path = self._dir / str(blob)
        try:
            self._verify_room(blob, len(data))
            if not offset:
                write_atomic(path, data)
                self._drop_parts(blob)
                return
            part = next(iter(self._dir.glob(f".{blob}.*.part")), None)
            if part is None:
                raise BlobGone(blob, "its beginning is gone")
            self._write_on(part, blob, offset, data)
            self._finish(part, blob, offset + len(data))
        except OSError as error:
            self._drop_parts(blob)
            raise BlobGone(blob, f"cannot be written: {error.strerror}") from None
        except BlobGone:
            self._drop_parts(blob)
            raise

    def _verify_room(self, blob: Digest, more: int) -> None:
        if self.size() + more > self._limit:
            raise BlobGone(blob, f"models may take {self._limit / 1e6:.0f} MB (storage.models_mb)")

    def _write_on(self, path: Path, blob: Digest, offset: int, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        flags |= 0 if offset else os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < offset:
                raise BlobGone(blob, "its beginning is gone")
            file.seek(offset)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def _finish(self, part: Path, blob: Digest, size: int) -> None:
        with part.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
        part.replace(self._dir / str(blob))
        sync_dir(self._dir)

    def _drop_parts(self, blob: Digest) -> None:
        for part in self._dir.glob(f".{blob}.*.part"):
            _remove(part)

    def read(self, blob: Digest) -> bytes:
        """The blob, checked; raise BlobGone if it is missing or damaged."""
        path = self._dir / str(blob)
        try:
            data = read_bounded(path, BLOB_MAX)
        except (OSError, LocalFault) as error:
            raise BlobGone(blob, f"cannot be read: {error}") from None
        if Digest.of(data) != blob:
            with suppress(OSError):
                path.unlink()
            raise BlobGone(blob, "is damaged")
        return data

    def keep(self, blobs: Iterable[Digest]) -> None:
        """Remove every other file, and parts of other blobs.

        Nothing is flushed: a file that a power cut brings back, or that can't be removed now, is
        removed the next time.
        """
        kept = {str(blob) for blob in blobs}
        for file in list(self._dir.iterdir()):
            named = _PART.fullmatch(file.name)
            if (named[1] if named else file.name) not in kept:
                _remove(file)


def _hashed(file: Path, chunk: int) -> Part | None:
    """The whole chunks of a part; None if there are none, or if they can't be read."""
    found = hashlib.sha256()
    try:
        count = min(file.stat().st_size, BLOB_MAX) // chunk
        with file.open("rb") as part:
            for _ in range(count):
                found.update(part.read(chunk))
    except OSError:
        return None
    return Part(chunk, count, found) if count else None


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
