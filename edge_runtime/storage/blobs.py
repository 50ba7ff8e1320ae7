"""Files named by their SHA-256: models, which can always be fetched again."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault, PeerFault
from qflare.host.files import ensure_private_dir, read_bounded, write_atomic
from qflare.messages import BLOB_MAX
from qflare.names import Digest

BLOBS_MAX: Final = 2 * 1024**3  # bytes of all blobs, if nobody says otherwise


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
        return sum(file.stat().st_size for file in self._dir.iterdir())

    def write(self, blob: Digest, data: bytes) -> None:
        """Keep a blob durably; raise BlobGone if the disk refuses, or the limit does."""
        if self.size() + len(data) > self._limit:
            raise BlobGone(blob, f"models may take {self._limit / 1e6:.0f} MB (storage.models_mb)")
        try:
            write_atomic(self._dir / str(blob), data)
        except OSError as error:
            raise BlobGone(blob, f"cannot be written: {error.strerror}") from None

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
        """Remove every other file.

        Nothing is flushed: a file that a power cut brings back is removed the next time.
        """
        kept = {str(blob) for blob in blobs}
        for file in list(self._dir.iterdir()):
            if file.name not in kept:
                file.unlink(missing_ok=True)
