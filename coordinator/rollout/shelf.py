"""`<state>/rollout`: the bundles that can be had, and what devices say of theirs. I/O.

Operators' commands write it, the running coordinator reads it. `rollout.json` is replaced at once,
after the bundles that it names are whole; what it doesn't name any more is removed after it.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from qflare.crypto.keys import VerifyKey
from qflare.faults import LocalFault, PeerFault
from qflare.host.bundle import read_manifest, read_wheels
from qflare.host.files import ensure_private_dir, read_bounded, sync_dir, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode
from qflare.names import Digest, FleetId
from qflare.release import ReleaseManifest
from qflare.rollout import BUNDLE_MAX, BUNDLES_MAX, CHUNK, PERMILLE, BundleOffer

_FILE_MAX: Final = 64 * 1024
_PIECE: Final = 1024 * 1024
DEVICES_MAX: Final = 100_000


class Bundle(Typed):
    """One that can be had, and what it says of itself."""

    bundle: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Meta(ge=1, le=BUNDLE_MAX)]
    permille: Annotated[int, Meta(ge=0, le=PERMILLE)]
    version: Annotated[str, Meta(max_length=64)]
    sequence: Annotated[int, Meta(ge=1, lt=2**31)]
    kind: Annotated[str, Meta(max_length=64)]  # "aarch64, Python 3.11"

    @property
    def offer(self) -> BundleOffer:
        return BundleOffer(Digest(bytes.fromhex(self.bundle)), self.size, self.permille)


class _Plan(Typed):
    format: Literal[1] = 1
    bundles: Annotated[tuple[Bundle, ...], Meta(max_length=BUNDLES_MAX)] = ()


class Standing(Typed):
    """What a device says of itself; unsigned, so for people alone."""

    status: Annotated[str, Meta(max_length=16)]
    version: Annotated[str, Meta(max_length=64)]
    detail: Annotated[str, Meta(max_length=400)]


class _Devices(Typed):
    devices: Annotated[dict[str, Standing], Meta(max_length=DEVICES_MAX)]


@dataclass(frozen=True, slots=True)
class Shelf:
    """One coordinator's."""

    here: Path

    @property
    def plan(self) -> Path:
        return self.here / "rollout.json"

    def bundles(self) -> tuple[Bundle, ...]:
        """Raise LocalFault if what stands there makes no sense."""
        try:
            return decode(_Plan, read_bounded(self.plan, _FILE_MAX)).bundles
        except FileNotFoundError:
            return ()
        except Unfit as fault:
            raise LocalFault(f"{self.plan}: {fault}; remove it, and stage again") from None

    def path(self, bundle: Digest) -> Path:
        return self.here / str(bundle)

    def read_chunk(self, bundle: Digest, index: int) -> bytes | None:
        """A chunk; None if the bundle isn't here."""
        try:
            with self.path(bundle).open("rb") as file:
                file.seek(index * CHUNK)
                return file.read(CHUNK)
        except FileNotFoundError:
            return None

    def stage(self, file: Path, owner: VerifyKey, fleet: FleetId, permille: int) -> Bundle:
        """Add a bundle that the owner signed, or let more or fewer devices have it.

        It takes the place of an older one for the same kind of devices. Raises LocalFault.
        """
        manifest = _verify(file, owner, fleet)
        ensure_private_dir(self.here)
        made = self._copy(file, manifest, permille)
        others = [b for b in self.bundles() if b.kind != made.kind]
        if len(others) >= BUNDLES_MAX:
            raise LocalFault(f"{BUNDLES_MAX} bundles are there already; stop one first")
        self._write([*others, made])
        return made

    def change(self, version: str, permille: int) -> tuple[Bundle, ...]:
        """Let this share of the devices have a version; 0: none, and it is removed."""
        found = self.bundles()
        if all(bundle.version != version for bundle in found):
            known = ", ".join(sorted({bundle.version for bundle in found})) or "nothing"
            raise LocalFault(f"{version[:60]} isn't staged; {known} is")
        changed = [
            replace(bundle, permille=permille) if bundle.version == version else bundle
            for bundle in found
        ]
        self._write([bundle for bundle in changed if bundle.permille])
        return tuple(changed)

    def _copy(self, file: Path, manifest: ReleaseManifest, permille: int) -> Bundle:
        draft = self.here / ".draft"
        digest, size = hashlib.sha256(), 0
        with file.open("rb") as source, draft.open("wb") as out:
            while piece := source.read(_PIECE):
                digest.update(piece)
                size += len(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        if size > BUNDLE_MAX:
            draft.unlink()
            raise LocalFault(f"{file}: larger than {BUNDLE_MAX >> 20} MiB; build a smaller one")
        draft.replace(self.path(Digest(digest.digest())))
        sync_dir(self.here)
        return Bundle(
            bundle=digest.hexdigest(),
            size=size,
            permille=permille,
            version=manifest.version,
            sequence=manifest.sequence,
            kind=f"{manifest.machine}, Python {manifest.python}",
        )

    def _write(self, bundles: Iterable[Bundle]) -> None:
        kept = tuple(bundles)
        write_atomic(self.plan, encode(_Plan(bundles=kept)))
        names = {bundle.bundle for bundle in kept}
        for path in self.here.iterdir():
            if len(path.name) == 64 and path.name not in names:
                path.unlink()

    # --- what devices say

    def tell(self, devices: dict[str, Standing]) -> None:
        write_atomic(self.here / "devices.json", encode(_Devices(devices=devices)))

    def told(self) -> dict[str, Standing]:
        """What the running coordinator heard last."""
        try:
            return decode(_Devices, read_bounded(self.here / "devices.json", 2**27)).devices
        except (FileNotFoundError, Unfit):
            return {}


def _verify(file: Path, owner: VerifyKey, fleet: FleetId) -> ReleaseManifest:
    """The manifest of a bundle that is whole, and for this fleet. Raises LocalFault."""
    try:
        with file.open("rb") as source:
            manifest = read_manifest(source, owner)
            read_wheels(source, manifest)
    except PeerFault as fault:
        raise LocalFault(f"{file}: {fault}; no device would take it") from None
    if manifest.fleet not in (None, fleet):
        raise LocalFault(f"{file} is for fleet {manifest.fleet}, and this is {fleet}")
    return manifest
