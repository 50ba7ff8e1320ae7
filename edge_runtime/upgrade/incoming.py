"""Bundles on their way to the device: `<state>/update/incoming`. I/O.

One file at a time, named by the digest of the bundle, grows chunk by chunk; what is in it survives
a restart. `settled.json` says what became of earlier ones, so that none is fetched twice.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

from msgspec import Meta

from edge_runtime.storage.reserve import free_bytes
from edge_runtime.upgrade import staging
from edge_runtime.upgrade.health import FOLDER
from edge_runtime.upgrade.install import this_machine, this_python
from edge_runtime.upgrade.places import Places
from qflare.crypto.keys import VerifyKey
from qflare.faults import LocalFault, Reason
from qflare.host.bundle import SUFFIX, read_manifest, read_wheels, size_max
from qflare.host.files import read_bounded, write_at, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode
from qflare.names import Digest, FleetId
from qflare.record import check
from qflare.release import ReleaseManifest, verify_for
from qflare.rollout import BundleOffer

SETTLED_MAX: Final = 64
_WHY_MAX: Final = 200
_FILE_MAX: Final = 64 * 1024
_MARGIN: Final = 32_000_000  # bytes that stay free for the device's own work


class Damaged(LocalFault):
    """What came isn't the bundle that was offered."""


class Settled(Typed):
    """A bundle that needs no fetching: it was staged, or it is refused for `why`."""

    bundle: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    why: Annotated[str, Meta(max_length=_WHY_MAX)]


class _Memory(Typed):
    format: Literal[1] = 1
    settled: Annotated[tuple[Settled, ...], Meta(max_length=SETTLED_MAX)] = ()


class Incoming:
    """The files. Methods raise OSError when the disk refuses."""

    def __init__(self, state_dir: Path, owner: VerifyKey, fleet: FleetId, places: Places) -> None:
        self._state_dir, self._owner, self._fleet = state_dir, owner, fleet
        self._places = places
        self._here = state_dir / FOLDER / "incoming"
        self._memory = self._here / "settled.json"
        self._settled = {one.bundle: one for one in self._load().settled}

    def _load(self) -> _Memory:
        try:
            return decode(_Memory, read_bounded(self._memory, _FILE_MAX))
        except (OSError, LocalFault, Unfit):
            return _Memory()  # the worst that comes of it is that one is fetched again

    def settled(self, bundle: Digest) -> bool:
        return str(bundle) in self._settled

    def settle(self, bundle: Digest, why: str) -> None:
        """Remember what became of a bundle; its file is needed no more."""
        self._settled[str(bundle)] = Settled(bundle=str(bundle), why=why[:_WHY_MAX])
        kept = tuple(self._settled.values())[-SETTLED_MAX:]
        self._settled = {one.bundle: one for one in kept}
        self._here.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._memory, encode(_Memory(settled=kept)))
        self.drop(bundle)

    def path(self, bundle: Digest) -> Path:
        return self._here / f"{bundle}.part"

    def have(self, bundle: Digest) -> int:
        """Bytes that are here."""
        try:
            return self.path(bundle).stat().st_size
        except FileNotFoundError:
            return 0

    def keep(self, bundles: set[Digest]) -> None:
        """Remove what was begun of all others."""
        wanted = {self.path(bundle).name for bundle in bundles}
        with suppress(FileNotFoundError):
            for path in self._here.iterdir():
                if path.suffix == ".part" and path.name not in wanted:
                    path.unlink()

    def drop(self, bundle: Digest) -> None:
        self.path(bundle).unlink(missing_ok=True)

    def write(self, bundle: Digest, offset: int, data: bytes) -> None:
        """Put a chunk in its place; what stood behind it is cut off."""
        self._here.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path(bundle), flags, 0o600)
        try:
            os.ftruncate(descriptor, offset)
            write_at(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def look(self, offer: BundleOffer) -> str:
        """The version of a bundle of which the first chunk is here.

        Raises PeerFault unless it is one for this device, LocalFault if there is no room for it.
        """
        with self.path(offer.bundle).open("rb") as file:
            manifest = self._verify(file)
        check(offer.size <= size_max(manifest), "it is larger than its wheels", Reason.TOO_LARGE)
        missing = offer.size - self.have(offer.bundle)
        for path, wanted in ((self._state_dir, missing), (self._places.opt, manifest.needs_bytes)):
            free = _free(path)
            if free < wanted + _MARGIN:
                raise LocalFault(
                    f"release {manifest.version}: {free / 1e6:.0f} MB are free at {path}, and it "
                    f"takes {(wanted + _MARGIN) / 1e6:.0f} MB; make room"
                )
        return manifest.version

    def stage(self, offer: BundleOffer) -> str:
        """Verify a bundle that is here whole, and leave it to the updater; its version. Slow.

        Raises Damaged for another file than was offered, PeerFault for one that isn't right.
        """
        path = self.path(offer.bundle)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != offer.bundle.raw:
                self.drop(offer.bundle)
                raise Damaged("it came damaged, and will be fetched again")
            file.seek(0)
            manifest = self._verify(file)
            read_wheels(file, manifest)
            os.fsync(file.fileno())
        name = f"{manifest.version}-{manifest.sequence}{SUFFIX}"
        with staging.staged_dir(self._state_dir, make=True) as directory:
            if directory is None:
                raise LocalFault(f"{self._state_dir} isn't there; start the daemon once")
            os.rename(path, name, dst_dir_fd=directory)
            os.fsync(directory)
        return manifest.version

    def _verify(self, file: BinaryIO) -> ReleaseManifest:
        manifest, places = read_manifest(file, self._owner), self._places
        verify_for(manifest, self._fleet, this_python(), this_machine(), places.lowest())
        for bad in places.ledger().bad:
            failed = f"{bad.version} failed here before: {bad.why}"
            check(bad.digest != str(manifest.digest), failed, Reason.BAD_VALUE)
        return manifest

    def outcome(self) -> str:
        """How the last update ended, by the updater's word; empty if none did."""
        try:
            return self._places.ledger().last
        except LocalFault:
            return ""


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return free_bytes(path)
