"""Collected samples on disk: a row of files of bounded size, of which the oldest go first.

A flush is one write at the end of one file and one fdatasync, so that an SD card sees few of them.
What was flushed stays; a power cut takes at most what came since. Readers need no lock: files only
grow, and one that is removed while it is read stays readable for whoever has it open.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_runtime.sources.segment import (
    BLOCK_MAX,
    Cipher,
    Head,
    Rows,
    count_rows,
    pack_block,
    pack_head,
    place_of,
    read_head,
    scan,
    segments,
)
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import ensure_private_dir, sync_dir, take_lock

FILES: Final = 16  # that a quota is divided into: a sixteenth goes at a time
_SMALLEST: Final = 64 * 1024
_LARGEST: Final = 4 * 1024 * 1024


class Ring:
    """The only writer of a folder of samples."""

    def __init__(self, folder: Path, head: Head, quota: int, cipher: Cipher | None = None) -> None:
        """Open or create; cut off what a power cut left torn.

        `head` says what the rows are (`before` and `sealed` are found here); files of other rows
        are left to age. Raises LocalFault if another process writes there, OSError if the disk
        refuses.
        """
        self._folder = ensure_private_dir(folder)
        busy = f"{folder}: another collector writes there; stop it, or name another folder"
        self._lock = take_lock(folder / "lock", busy)
        self._cipher, self._quota = cipher, quota
        self._file_max = min(max(quota // FILES, _SMALLEST), _LARGEST)
        self._file: int | None = None
        self._number = self._size = 0
        self._unsure = False  # how the file ends
        self.cut = 0  # bytes that were cut off
        self.removed = 0  # files that made room
        self._head = _restated(head, 0, cipher is not None)
        self.rows = 0  # that were ever written here
        self._plain: list[tuple[int, str]] = []
        try:
            for path in folder.glob(".*.tmp"):  # of a file that was to be sealed
                path.unlink(missing_ok=True)
            self._take_up()
            if cipher is not None:
                self._plain = [it for it in segments(folder) if not is_sealed(folder / it[1])]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def append(self, rows: Rows) -> None:
        """Make rows durable as one block. OSError: they aren't, and the folder is as it was."""
        if not len(rows):
            return
        if self._unsure:
            self._undo()
        inside = rows.inside()
        extra = 0 if self._cipher is None else 64
        if len(inside) + extra > BLOCK_MAX:
            raise LocalFault(f"{len(inside)} bytes in one block; flush more often (ring.flush_s)")
        if self._file is None or self._size + len(inside) > self._file_max:
            self._next_file()
        assert self._file is not None  # noqa: S101 -- for the type checker
        if self._cipher is not None:
            inside = self._cipher.seal(inside, place_of(self._number, self._size))
        block = pack_block(len(rows), inside)
        try:
            _write_all(self._file, block)
            os.fdatasync(self._file)
        except OSError:
            self._unsure = True
            with suppress(OSError):  # else before the next rows, so that none is there twice
                self._undo()
            raise
        self._size += len(block)
        self.rows += len(rows)
        self._make_room()

    def _undo(self) -> None:
        """Take back what a failed write may have left at the end."""
        if self._file is not None:
            os.ftruncate(self._file, self._size)
        self._unsure = False

    def seal_older(self) -> None:
        """Encrypt one file that was written before there was a key, the newest first.

        Called now and then, so that a board that is given a key isn't busy with nothing else.
        OSError if the disk refuses; then it is tried again.
        """
        while self._plain and self._cipher is not None:
            number, name = self._plain[-1]
            with suppress(FileNotFoundError):  # it made room
                if self._cipher.convert(self._folder / name, number):
                    self._plain.pop()
                    return
            self._plain.pop()

    def _take_up(self) -> None:
        """Go on where the last process stopped."""
        found = segments(self._folder)
        while found:
            self._number, name = found.pop()
            path = self._folder / name
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            try:
                known = scan(file)
            except PeerFault:
                # Without a head nothing in it was ever acknowledged, or nothing can be read.
                self.cut += os.fstat(file).st_size
                os.close(file)
                path.unlink()
                sync_dir(self._folder)
                continue
            self.rows = known.head.before + known.rows
            size = os.fstat(file).st_size
            if size > known.end:
                os.ftruncate(file, known.end)
                os.fsync(file)
                self.cut += size - known.end
            if known.head.alike(self._head) and known.head.sealed == self._head.sealed:
                self._file, self._size = file, known.end
            else:
                os.close(file)
            return

    def _next_file(self) -> None:
        self._close_file()
        self._make_room(self._file_max)
        number = self._number + 1
        path = self._folder / f"{number:08d}.seg"
        head = pack_head(_restated(self._head, self.rows, self._head.sealed))
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            _write_all(file, head)
            os.fsync(file)
            sync_dir(self._folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._number, self._file, self._size = number, file, len(head)

    def _make_room(self, wanted: int = 0) -> None:
        """Remove the oldest files, but never the one that is written."""
        files = [self._folder / name for _, name in segments(self._folder)]
        sizes = {path: path.stat().st_size for path in files}
        total = sum(sizes.values()) + wanted
        for path in files:
            if total <= self._quota or (self._file is not None and path == files[-1]):
                break
            path.unlink(missing_ok=True)
            total -= sizes[path]
            self.removed += 1

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def rows_collected(folder: Path) -> int:
    """How many rows were ever written to a folder of samples; 0 if there is none.

    Cheap enough for a gate that asks every few seconds: one file's block heads are read.
    """
    with suppress(OSError):
        for _, name in reversed(segments(folder)):
            file = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return count_rows(file)
            except PeerFault:
                continue
            finally:
                os.close(file)
    return 0


def cipher_of(key: bytes | None) -> Cipher | None:
    """What seals samples with this key of 32 bytes; None without one."""
    if key is None:
        return None
    from edge_runtime.sources.sealed import Sealer

    return Sealer(key)


def is_sealed(path: Path) -> bool:
    """Is nothing in this file readable without a key? A file without a head has nothing to read."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_head(file)[0].sealed
    except PeerFault:
        return True
    finally:
        os.close(file)


def _restated(head: Head, before: int, sealed: bool) -> Head:
    import msgspec

    return msgspec.structs.replace(head, before=before, sealed=sealed)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
