"""Signing as owners: one key at a time, each owner on their own machine. Pure.

What some have signed and others not yet has the form of what all have signed; whoever verifies it
counts too few signatures until the last one is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qflare import codec
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import Suite
from qflare.envelope import Signable
from qflare.faults import LocalFault
from qflare.names import FleetId
from qflare.owners import Owned, Owners, Signatures
from qflare.policy import OwnerManifest


def pinned(fleet: FleetId, key: bytes) -> Owners:
    """The owners before any change: one raw key."""
    return Owners(fleet, 0, 1, (key,))


def chain(owned: Owned, first: Owners) -> tuple[Owners, ...]:
    """All owners from the first on, *unverified*; raise PeerFault for what is no owners' record."""
    return first, *(Owners.parse(body) for body, _, _ in owned.changes)


def successors(owners: Owners, threshold: int, keys: Sequence[bytes]) -> Owners:
    """The next owners; `owners` themselves if nothing would change. Raises PeerFault."""
    wanted = replace(owners, threshold=threshold, keys=tuple(sorted(keys)))
    return owners if wanted == owners else replace(wanted, number=owners.number + 1)


def begin(message: Signable, before: Owned | None, owners: Owners) -> Owned:
    """A message with no signature yet, behind the changes of owners that were before it.

    `owners` are those who are to sign it: the last ones, or new ones that they appoint.
    """
    changes = before.changes if before else ()
    if owners.number > len(changes):
        changes = (*changes, (owners.to_bytes(), (), ()))
    return Owned(message.to_bytes(), (), changes)


def add(owned: Owned, first: Owners, kind: type[Signable], key: SigningKey) -> Owned:
    """Sign with `key` whatever waits for it; raise LocalFault if nothing does."""
    owners = chain(owned, first)
    changes = list(owned.changes)
    if changes:  # those before the last one are complete, or nobody would have gone on
        body, old, new = changes[-1]
        old = _with(old, owners[-2], key, Owners.CONTEXT, body)
        changes[-1] = body, old, _with(new, owners[-1], key, Owners.CONTEXT, body)
    signatures = _with(owned.signatures, owners[-1], key, kind.CONTEXT, owned.body)
    signed = Owned(owned.body, signatures, tuple(changes))
    if signed == owned:
        raise LocalFault(
            f"key {key.verify_key.fingerprint.short} has nothing to sign here: it is none of the "
            "owners', or has signed already"
        )
    return signed


def to_bytes(owned: Owned) -> bytes:
    """The one spelling of it; raise LocalFault while the pinned key hasn't signed."""
    if owned.changes:
        return owned.to_bytes()
    if not owned.signatures:
        raise LocalFault("not signed yet; sign it with the owner's key")
    return codec.encode([owned.body, owned.signatures[0][1]])


@dataclass(frozen=True)
class Missing:
    """Signatures that are still wanted."""

    what: str
    given: int
    wanted: int
    keys: tuple[bytes, ...]  # that could give them


def missing(owned: Owned, first: Owners) -> tuple[Missing, ...]:
    """What has to be signed before verifiers take it; nothing is verified here."""
    owners = chain(owned, first)
    found = []
    if owned.changes:
        _, old, new = owned.changes[-1]
        found += [_missing("the change, by the owners before", old, owners[-2])]
        found += [_missing("the change, by the new owners", new, owners[-1])]
    found.append(_missing("the manifest", owned.signatures, owners[-1]))
    return tuple(one for one in found if one.given < one.wanted)


def verify_given(
    owners: Owners, suite: Suite, context: str, body: bytes, given: Signatures
) -> None:
    """Raise PeerFault unless each signature that is there is true, however few they are."""
    if given:
        several = replace(owners, threshold=min(len(given), len(owners.keys)))
        several.verify(suite, context, body, given)


def manifest_of(owned: Owned) -> OwnerManifest:
    """What is being signed, *unverified*; raises PeerFault."""
    return OwnerManifest.parse(owned.body)


def _missing(what: str, given: Signatures, owners: Owners) -> Missing:
    have = {number for number, _ in given}
    rest = tuple(key for number, key in enumerate(owners.keys) if number not in have)
    return Missing(what, len(given), owners.threshold, rest)


def _with(
    given: Signatures, owners: Owners, key: SigningKey, context: str, body: bytes
) -> Signatures:
    raw = key.verify_key.raw
    have = dict(given)
    if raw not in owners.keys or owners.keys.index(raw) in have:
        return given
    have[owners.keys.index(raw)] = key.sign(context, body).raw
    return tuple(sorted(have.items()))
