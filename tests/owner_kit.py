"""Changes of owners for tests: manifests signed by several."""

from collections.abc import Sequence
from dataclasses import replace

from qflare.crypto.keys import SigningKey
from qflare.host.manifest import signing
from qflare.owners import Owned
from qflare.policy import OwnerManifest


def handed_over(
    manifest: OwnerManifest, owner: SigningKey, threshold: int, keys: Sequence[SigningKey]
) -> tuple[Owned, bytes]:
    """The manifest after the pinned owner's first change, signed by all: in parts, and as sent."""
    first = signing.pinned(manifest.fleet, owner.verify_key.raw)
    after = signing.successors(first, threshold, [key.verify_key.raw for key in keys])
    owned = signing.begin(replace(manifest, owners=after.number), None, after)
    for key in (owner, *keys):
        owned = signing.add(owned, first, OwnerManifest, key)
    return owned, signing.to_bytes(owned)
