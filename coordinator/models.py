"""A store of blobs by their digest, on disk: models, optimiser states, the graph."""

from collections.abc import Iterable
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir, read_bounded, sync_dir, write_atomic
from qflare.messages import BLOB_MAX, CHUNK_MAX, ZERO
from qflare.names import Digest


class ModelStore:
    """Each blob is one file, named by its SHA-256."""

    def __init__(self, directory: Path) -> None:
        self._dir = ensure_private_dir(directory)

    def path(self, digest: Digest) -> Path:
        """Where the blob is, if it is."""
        return self._dir / str(digest)

    def has(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """Bytes of a blob; LocalFault if it isn't there."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise self._missing(digest) from None

    def put(self, data: bytes) -> Digest:
        """Store a blob durably; return its name."""
        digest = Digest.of(data)
        if not self.has(digest):
            write_atomic(self.path(digest), data)
        return digest

    def read(self, digest: Digest) -> bytes:
        """The whole blob, verified; empty for ZERO. LocalFault if it is missing or damaged."""
        if digest == ZERO:
            return b""
        try:
            data = read_bounded(self.path(digest), BLOB_MAX)
        except FileNotFoundError:
            raise self._missing(digest) from None
        if Digest.of(data) != digest:
            raise LocalFault(f"{self.path(digest)} is damaged; restore it from a backup")
        return data

    def read_chunk(self, digest: Digest, index: int) -> bytes:
        """Chunk `index` of CHUNK_MAX bytes; the last one is shorter, and what follows is empty.

        It isn't verified: whoever fetches a blob checks the whole.
        """
        try:
            with self.path(digest).open("rb") as file:
                file.seek(index * CHUNK_MAX)
                return file.read(CHUNK_MAX)
        except FileNotFoundError:
            raise self._missing(digest) from None

    def import_file(self, path: Path, digest: Digest, what: str) -> None:
        """Store a file under the digest that the owner named; LocalFault if it is another one."""
        if self.has(digest):
            return
        try:
            data = read_bounded(path, BLOB_MAX)
        except OSError as error:
            raise LocalFault(f"{path}: {error.strerror}; name the {what} in [genesis]") from None
        if Digest.of(data) != digest:
            raise LocalFault(
                f"{path} is not the {what} that the owner manifest names; it wants {digest}"
            )
        self.put(data)

    def keep(self, digests: Iterable[Digest]) -> int:
        """Remove every blob but these; return how many went."""
        kept = {str(digest) for digest in digests}
        gone = [file for file in self._dir.iterdir() if file.name not in kept]
        for file in gone:
            file.unlink()
        if gone:
            sync_dir(self._dir)
        return len(gone)

    def _missing(self, digest: Digest) -> LocalFault:
        return LocalFault(f"{self.path(digest)} is missing; restore it from a backup")
