"""A stand-in for Linux' /sys/kernel/config/tsm/report, served by FUSE over a software platform.

It behaves as the kernel's Documentation/ABI/testing/configfs-tsm-report says, where a plain
directory couldn't: making a directory makes its files, a written blob counts when its file is
closed, `generation` counts what was written, and more than 64 bytes are refused.
"""

import errno
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path
from typing import Any

BLOB_MAX = 64
_FILES = ("inblob", "outblob", "provider", "generation")
_SNP_FILES = ("auxblob", "privlevel", "privlevel_floor")

Quote = Callable[[bytes], tuple[bytes, bytes]]  # report data to evidence and certificates


def why_not() -> str:
    """What is missing here for such a file system; empty if nothing is."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "mounting by FUSE needs root and /dev/fuse"
    try:
        import mfusepy  # noqa: F401 - loads libfuse2
    except (ImportError, OSError) as error:
        return f"mfusepy and Debian's libfuse2 are needed: {error}"
    return ""


@contextmanager
def configfs(mount: Path, provider: str, quote: Quote) -> Iterator[None]:
    """Serve `quote` as the kernel's `provider` below `mount`, by a process of its own."""
    mount.mkdir()
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        try:
            _serve(mount, _operations(provider, quote, say))
        finally:
            os._exit(0)
    os.close(say)
    try:
        assert select.select([ready], [], [], 30)[0], "FUSE did not start"
        assert os.read(ready, 1) == b"!", "FUSE ended"
        yield
    finally:
        os.close(ready)
        CDLL(None).umount2(os.fsencode(mount), 2)  # MNT_DETACH
        os.waitpid(child, 0)


def _serve(mount: Path, operations: Any) -> None:
    from mfusepy import FUSE

    FUSE(operations, str(mount), foreground=True, nothreads=True, direct_io=True)


def _operations(provider: str, quote: Quote, say: int) -> Any:
    from mfusepy import FuseOSError, Operations

    files = (*_FILES, *_SNP_FILES) if provider == "sev_guest" else _FILES

    class Report(Operations):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.entries: dict[str, dict[str, Any]] = {}
            self.written: dict[str, bytes] = {}

        def init(self, path: str) -> None:
            os.write(say, b"!")

        def _entry(self, path: str) -> tuple[dict[str, Any], str]:
            _, name, *rest = path.split("/")
            if name not in self.entries or len(rest) > 1 or (rest and rest[0] not in files):
                raise FuseOSError(errno.ENOENT)
            return self.entries[name], rest[0] if rest else ""

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            if path != "/" and self._entry(path)[1]:
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0}
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}

        def readdir(self, path: str, fh: int) -> Iterable[str]:
            return [".", "..", *(self.entries if path == "/" else files)]

        def mkdir(self, path: str, mode: int) -> int:
            name = path.removeprefix("/")
            if "/" in name or name in self.entries:
                raise FuseOSError(errno.EPERM if "/" in name else errno.EEXIST)
            self.entries[name] = {"generation": 0, "inblob": b"", "made": (0, ())}
            return 0

        def rmdir(self, path: str) -> int:
            del self.entries[path.removeprefix("/")]
            return 0

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            return 0

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            _, name = self._entry(path)
            if name not in ("inblob", "privlevel") or offset + len(data) > BLOB_MAX:
                raise FuseOSError(errno.EINVAL)
            self.written[path] = self.written.get(path, b"")[:offset] + data
            return len(data)

        def flush(self, path: str, fh: int) -> int:
            if (data := self.written.pop(path, None)) is not None:
                entry, name = self._entry(path)
                entry[name] = data
                entry["generation"] += 1
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            entry, name = self._entry(path)
            if name in ("outblob", "auxblob"):
                if not entry["inblob"]:
                    raise FuseOSError(errno.EINVAL)
                if entry["made"][0] != entry["generation"]:  # read in pieces, made once
                    entry["made"] = entry["generation"], quote(entry["inblob"])
                data = entry["made"][1][name == "auxblob"]
                if not data:
                    raise FuseOSError(errno.ENXIO)
            elif name in ("provider", "generation"):
                data = f"{provider if name == 'provider' else entry['generation']}\n".encode()
            elif name == "privlevel_floor":
                data = b"0\n"
            else:
                raise FuseOSError(errno.EACCES)
            return data[offset : offset + size]

    return Report()
