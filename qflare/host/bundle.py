"""A release in one file: a tar (ustar, POSIX.1-1988) of which the manifest fixes every byte.

First comes `release`, the signed manifest, then the wheels in its order, each behind the one header
that its name and size allow. So there is nothing to interpret: a header that is another one is
refused, and with it every link, directory, path and extension that tar knows.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from qflare.crypto.keys import VerifyKey
from qflare.envelope import peek_signed
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import Digest
from qflare.release import (
    SIGNED_MAX,
    WHEEL_MAX,
    WHEELS_MAX,
    ReleaseManifest,
    Wheel,
    open_manifest,
)

SUFFIX: Final = ".qflare"
_BLOCK: Final = 512
_PIECE: Final = 256 * 1024
_FIRST: Final = "release"
_END: Final = bytes(2 * _BLOCK)  # two empty blocks end an archive

Keep = Callable[[Wheel], BinaryIO]


def write_bundle(out: BinaryIO, signed: bytes, wheels: Sequence[Path]) -> None:
    """Write the bundle; `wheels` are the manifest's files in its order. Raises OSError."""
    _put(out, _FIRST, len(signed), io.BytesIO(signed))
    for path in wheels:
        with path.open("rb") as file:
            _put(out, path.name, path.stat().st_size, file)
    out.write(_END)


def peek_bundle(source: BinaryIO) -> ReleaseManifest:
    """What a bundle says, *unverified*: to show to people. Raises PeerFault."""
    return peek_signed(ReleaseManifest, _signed(source))


def read_manifest(source: BinaryIO, owner: VerifyKey) -> ReleaseManifest:
    """The verified manifest; `source` then stands before the first wheel. Raises PeerFault."""
    return open_manifest(_signed(source), owner)


def read_wheels(source: BinaryIO, manifest: ReleaseManifest, keep: Keep | None = None) -> None:
    """Read all the wheels; what `keep` opens for each gets its bytes and is closed.

    Raises PeerFault for anything but the bundle of this manifest, OSError of what `keep` opened.
    A wheel is written before its digest is known: what has been kept is good once this returned.
    """
    for wheel in manifest.wheels:
        if _exactly(source, _BLOCK) != _header(wheel.name, wheel.size):
            raise PeerFault(Reason.MALFORMED, f"{wheel.name} isn't where it belongs")
        digest = hashlib.sha256()
        file = keep(wheel) if keep else None
        try:
            for piece in _pieces(source, wheel.size):
                digest.update(piece)
                if file is not None:
                    file.write(piece)
        finally:
            if file is not None:
                file.close()
        if Digest(digest.digest()) != wheel.digest:
            raise PeerFault(Reason.WRONG_DIGEST, f"{wheel.name} is damaged or another file")
        _padding(source, wheel.size)
    if source.read(len(_END) + 1) != _END:
        raise PeerFault(Reason.MALFORMED, "the archive doesn't end where it should")


def bundle_max() -> int:
    """No bundle is larger, in bytes."""
    return SIGNED_MAX + WHEELS_MAX * (WHEEL_MAX + 2 * _BLOCK)


def size_max(manifest: ReleaseManifest) -> int:
    """No bundle of this manifest is larger, in bytes."""
    wheels = sum(wheel.size + 2 * _BLOCK for wheel in manifest.wheels)
    return SIGNED_MAX + 2 * _BLOCK + wheels + len(_END)


def describe_wheel(path: Path) -> Wheel:
    """A file as the manifest names it; raise LocalFault if it can be none of its wheels."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    try:
        return Wheel(path.name, path.stat().st_size, Digest(digest))
    except PeerFault as fault:
        raise LocalFault(f"{path}: {fault.detail}") from None


def _signed(source: BinaryIO) -> bytes:
    head = _exactly(source, _BLOCK)
    try:
        size = int(head[124:135], 8)  # of ustar's fixed places, the size in octal digits
    except ValueError:
        size = -1
    if not 0 < size <= SIGNED_MAX or head != _header(_FIRST, size):
        raise PeerFault(Reason.MALFORMED, "not a release bundle")
    signed = _exactly(source, size)
    _padding(source, size)
    return signed


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)  # owner root, no date: equal wheels make equal bundles
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _put(out: BinaryIO, name: str, size: int, data: BinaryIO) -> None:
    out.write(_header(name, size))
    for piece in _pieces(data, size):
        out.write(piece)
    out.write(bytes(-size % _BLOCK))


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = _exactly(source, min(size, _PIECE))
        size -= len(piece)
        yield piece


def _padding(source: BinaryIO, size: int) -> None:
    if any(_exactly(source, -size % _BLOCK)):
        raise PeerFault(Reason.MALFORMED, "bytes between the files")


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    while len(data) < size:  # of a pipe
        more = source.read(size - len(data))
        if not more:
            raise PeerFault(Reason.MALFORMED, "the file ends too early; was it copied whole?")
        data += more
    return data
