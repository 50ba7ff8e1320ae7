"""Signed manifests as files, complete or not, and who pinned what."""

from dataclasses import dataclass
from pathlib import Path

from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import parse_suite, suite_of_verify_key
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import read_file
from qflare.host.manifest import signing
from qflare.messages import KIB
from qflare.owners import Owned, Owners, open_manifest
from qflare.policy import OwnerManifest


@dataclass(frozen=True)
class SignedFile:
    """A manifest with some signatures or all."""

    owned: Owned
    manifest: OwnerManifest
    first: Owners  # those of the pinned key; without one, nothing is said about the signatures

    @property
    def owners(self) -> Owners:
        """Who signs it."""
        return signing.chain(self.owned, self.first)[-1]

    @property
    def missing(self) -> tuple[signing.Missing, ...]:
        """Signatures that are wanted still."""
        return signing.missing(self.owned, self.first)


def read_owner(path: Path) -> VerifyKey:
    """The fleet's first owner key, as devices pin it; raise LocalFault."""
    try:
        raw = read_file(path, 64 * KIB)
        return VerifyKey.parse(suite_of_verify_key(raw), raw)
    except PeerFault as fault:
        raise LocalFault(f"{path} is no verify key: {fault.detail}") from None


def read_signed(path: Path, owner: VerifyKey | None) -> SignedFile:
    """Read what `sign` wrote; with `owner`, all but missing signatures is verified.

    Raises LocalFault.
    """
    data = read_file(path, Owned.CEILING)
    try:
        owned = Owned.read(data)
        manifest = OwnerManifest.parse(owned.body)
        key = owner.raw if owner else bytes(parse_suite(manifest.suite).verify_key_length)
        found = SignedFile(owned, manifest, signing.pinned(manifest.fleet, key))
        if owner is not None:
            _verify(data, found, owner)
        else:
            signing.chain(owned, found.first)
    except PeerFault as fault:
        raise LocalFault(f"{path}: {fault}; it isn't what the owners signed") from None
    return found


def _verify(data: bytes, found: SignedFile, owner: VerifyKey) -> None:
    if not found.missing:
        open_manifest(data, owner, found.manifest.fleet)
        return
    # Below a threshold: what is there has to be true all the same.
    suite, owned = owner.suite, found.owned
    owners = signing.chain(owned, found.first)
    for before, after, (body, old, new) in zip(owners, owners[1:], owned.changes, strict=False):
        signing.verify_given(before, suite, Owners.CONTEXT, body, old)
        signing.verify_given(after, suite, Owners.CONTEXT, body, new)
    context = OwnerManifest.CONTEXT
    signing.verify_given(owners[-1], suite, context, owned.body, owned.signatures)
