"""Who speaks for a fleet: the owner's keys, how many of them have to sign, and how they change.

Every verifier starts from the one key that it has pinned. Whoever speaks for the fleet later was
named by those who did before: each change of owners is signed by enough of the old ones and of the
new ones, and what the owners sign brings all changes along, so that a verifier that missed some, or
starts anew, comes to the same owners by itself. Going back to owners from before is refused.

What one pinned owner signs is `[message, signature]`, as any signed message. After a change it is
`[message, signatures, changes]`, a signature being `[number of the key, signature]` in ascending
order, so that no key counts twice.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final

from qflare import codec
from qflare.crypto.keys import Signature, VerifyKey
from qflare.crypto.suites import Suite
from qflare.envelope import M
from qflare.faults import Reason
from qflare.names import Digest, FleetId
from qflare.policy import OwnerManifest
from qflare.record import Record, check

CHANGES_SIZE: Final = 64 * 1024  # bytes for signatures and changes beside what they sign
Signatures = tuple[tuple[int, bytes], ...]
Seen = tuple[int, Digest]  # number and digest of the last owners that a verifier met


@dataclass(frozen=True)
class Owners(Record):
    """Those who speak for the fleet from their number-th change on (0: the pinned key alone)."""

    CEILING: ClassVar[int] = CHANGES_SIZE
    CONTEXT: ClassVar[str] = "owners"

    fleet: FleetId
    number: int
    threshold: int  # so many of them have to sign
    keys: tuple[bytes, ...]  # raw verify keys, in ascending order

    def __post_init__(self) -> None:
        check(1 <= self.threshold <= len(self.keys), "owners: threshold outside 1…number of keys")
        check(all(a < b for a, b in pairwise(self.keys)), "owners: keys twice or out of order")

    @property
    def seen(self) -> Seen:
        """What a verifier remembers of them."""
        return self.number, Digest.of(b"qflare/1/owners\0", self.to_bytes())

    def verify(self, suite: Suite, context: str, body: bytes, signatures: Signatures) -> None:
        """Raise PeerFault unless enough of them signed `body`, and each signature is true."""
        numbers = [-1, *(number for number, _ in signatures), len(self.keys)]
        check(all(a < b for a, b in pairwise(numbers)), "signatures of no key, or out of order")
        for number, raw in signatures:
            VerifyKey(suite, self.keys[number]).verify(context, body, Signature(suite, raw))
        given, wanted = len(signatures), self.threshold
        check(given >= wanted, f"signed by {given} owners of {wanted}", Reason.BAD_SIGNATURE)


@dataclass(frozen=True)
class Owned(Record):
    """What owners signed, with how they came to be owners; nothing is verified yet."""

    CEILING: ClassVar[int] = OwnerManifest.CEILING + CHANGES_SIZE

    body: bytes
    signatures: Signatures
    changes: tuple[tuple[bytes, Signatures, Signatures], ...]  # Owners, signed by old and by new

    @classmethod
    def read(cls, data: bytes) -> "Owned":
        """Parse either form; raise PeerFault."""
        value = codec.decode(data, cls.CEILING)
        if isinstance(value, list) and len(value) == 2:
            return cls.from_value([value[0], [[0, value[1]]], []])
        owned = cls.from_value(value)
        check(bool(owned.changes), "the form after a change of owners, without one")
        return owned


def open_owned(
    kind: type[M], data: bytes, pinned: VerifyKey, fleet: FleetId, seen: Seen | None = None
) -> tuple[M, Owners]:
    """Verify what the fleet's owners signed as a `kind`, then parse it; who they were.

    Raises PeerFault: BAD_SIGNATURE below a threshold, WRONG_FLEET, ROLLBACK unless the owners that
    were `seen` are these or led to them, and what parsing raises.
    """
    owned, suite, owners = Owned.read(data), pinned.suite, Owners(fleet, 0, 1, (pinned.raw,))
    met = [owners.seen]
    for body, before, after in owned.changes:
        owners.verify(suite, Owners.CONTEXT, body, before)
        following = Owners.parse(body)
        check(following.fleet == fleet, "owners of another fleet", Reason.WRONG_FLEET)
        check(following.number == owners.number + 1, "changes of owners out of order")
        following.verify(suite, Owners.CONTEXT, body, after)
        owners = following
        met.append(owners.seen)
    check(seen in (None, *met), "not by the owners met before, or successors", Reason.ROLLBACK)
    owners.verify(suite, kind.CONTEXT, owned.body, owned.signatures)
    return kind.parse(owned.body), owners


def open_manifest(
    data: bytes, pinned: VerifyKey, fleet: FleetId, seen: Seen | None = None
) -> tuple[OwnerManifest, Owners]:
    """Verify a manifest of this fleet; the one function by which every party does.

    Whether it may follow the one that stood is OwnerManifest.verify_successor. Raises PeerFault.
    """
    manifest, owners = open_owned(OwnerManifest, data, pinned, fleet, seen)
    check(manifest.fleet == fleet, f"manifest of fleet {manifest.fleet}", Reason.WRONG_FLEET)
    check(manifest.suite == pinned.suite.name, "manifest's suite", Reason.WRONG_SUITE)
    check(manifest.owners == owners.number, "manifest made for other owners", Reason.BAD_SIGNATURE)
    return manifest, owners
