"""The commands that sign a manifest, show it, and compare two."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import parse_suite
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import write_atomic
from qflare.host.keystore import options
from qflare.host.keystore.settings import load_seed
from qflare.host.manifest import signing, words
from qflare.host.manifest.draft import Builder, Draft, read_draft
from qflare.host.manifest.files import SignedFile, read_owner, read_signed
from qflare.host.wrapping import wrapped
from qflare.policy import OwnerManifest
from qflare.verifiers.facts import Tier

_WRONG = 1


def sign(arguments: argparse.Namespace) -> int:
    """Sign with one key; exit 1 while signatures are wanting."""
    owner = read_owner(arguments.owner) if arguments.owner else None
    path: Path = arguments.file
    draft = read_draft(path) if path.suffix == ".toml" else None
    try:
        suite = parse_suite(draft.suite) if draft and not owner else _required(owner).suite
    except PeerFault as fault:
        raise LocalFault(f"{path}: {fault.detail}") from None
    key = SigningKey.from_seed(suite, load_seed(arguments.key, *options.read(arguments)))
    if draft is not None:
        out = arguments.out
        if out is None or out == path:
            raise LocalFault("-o: name the file for the signed manifest")
        start = _begun(arguments, draft, key, owner)
    else:
        if arguments.first or arguments.after:
            raise LocalFault(f"{path} is signed already; --first and --after are for drafts")
        out = arguments.out or path
        start = read_signed(path, _required(owner))
    try:
        owned = signing.add(start.owned, start.first, OwnerManifest, key)
    except PeerFault as fault:
        raise LocalFault(f"{path}: {fault}") from None
    signed = SignedFile(owned, start.manifest, start.first)
    write_atomic(out, signing.to_bytes(owned), 0o644)
    _print(arguments, _told(signed), [*_signed_words(signed, out)])
    return _WRONG if signed.missing else 0


def _begun(
    arguments: argparse.Namespace, draft: Draft, key: SigningKey, owner: VerifyKey | None
) -> SignedFile:
    """A draft with its version and dates, and nothing signed."""
    builder, now = Builder(draft, arguments.file.parent), int(time.time())
    if arguments.after is not None:
        before = read_signed(arguments.after, _required(owner))
        if before.missing:
            raise LocalFault(f"{arguments.after} isn't signed by all yet; complete it first")
        if before.manifest.fleet != draft.fleet:
            raise LocalFault(f"{arguments.after} is of fleet {before.manifest.fleet}")
        owned, first, owners = before.owned, before.first, before.owners
        version, now = before.manifest.version + 1, max(now, before.manifest.issued)
    elif arguments.first:
        pinned = owner or key.verify_key
        first = signing.pinned(builder.fleet, pinned.raw)
        owned, owners, version = None, first, 1
    else:
        raise LocalFault("--after FILE: name the manifest that stands; or --first if there is none")
    wanted = builder.owner_keys()
    try:
        if wanted is not None:
            owners = signing.successors(owners, *wanted)
        manifest = builder.manifest(version, now, owners)
        return SignedFile(signing.begin(manifest, owned, owners), manifest, first)
    except PeerFault as fault:
        raise LocalFault(f"{arguments.file}: {fault}") from None


def _required(owner: VerifyKey | None) -> VerifyKey:
    if owner is None:
        raise LocalFault("--owner FILE: name the first owner's verify key, as devices pin it")
    return owner


def inspect(arguments: argparse.Namespace) -> int:
    """Show a manifest; exit 1 if it isn't complete, or has ended."""
    owner = read_owner(arguments.owner) if arguments.owner else None
    found = read_signed(arguments.file, owner)
    ended = found.manifest.expires <= time.time()
    told = _told(found) | {"verified": owner is not None, "expired": ended}
    lines = _columns(words.rows(found.manifest, found.owners))
    lines += ["", *_standing_words(found, verified=owner is not None, ended=ended)]
    _print(arguments, told, lines)
    return _WRONG if found.missing or ended else 0


def diff(arguments: argparse.Namespace) -> int:
    """Show what changes; what allows more than before is marked."""
    owner = read_owner(arguments.owner) if arguments.owner else None
    old, new = read_signed(arguments.old, owner), read_signed(arguments.new, owner)
    found = words.differences(old.manifest, new.manifest, old.owners, new.owners)
    was, now = old.manifest.version, new.manifest.version
    lines = [f"version {was} becomes {now}, tier {words.tier_words(new.manifest.appraisal.tier)}"]
    if now <= was:
        lines.append("NOT newer: no device that has the first will take the second")
    for one in found:
        mark = "! " if one.weaker else "  "
        lines += wrapped(f"{one.whom}: {one.says}", mark, "    ")
    if any(one.weaker for one in found):
        lines += ["", "! allows more than before"]
    changes = [{"whom": it.whom, "says": it.says, "weaker": it.weaker} for it in found]
    _print(arguments, {"old": was, "new": now, "changes": changes}, lines)
    return 0


def _told(signed: SignedFile) -> dict[str, object]:
    missing = [{"what": it.what, "given": it.given, "wanted": it.wanted} for it in signed.missing]
    return {
        "manifest": words.tree(signed.manifest),
        "digest": str(signed.manifest.digest),
        "tier": Tier(signed.manifest.appraisal.tier).name.lower(),
        "owners": words.tree(signed.owners),
        "complete": not missing,
        "missing": missing,
    }


def _signed_words(signed: SignedFile, out: Path) -> list[str]:
    manifest = signed.manifest
    lines = [
        f"{out}: manifest {manifest.version} of fleet {manifest.fleet}, "
        f"tier {words.tier_words(manifest.appraisal.tier)}, until {words.date(manifest.expires)}"
    ]
    return lines + _missing_words(signed)


def _standing_words(found: SignedFile, *, verified: bool, ended: bool) -> list[str]:
    lines = _missing_words(found)
    if not lines:
        what = "signed by the owners" if verified else "signatures NOT verified: name --owner"
        lines = [what]
    if ended:
        lines.append("it has ENDED: no device seals anything under it")
    return lines


def _missing_words(signed: SignedFile) -> list[str]:
    lines = []
    for one in signed.missing:
        lines.append(
            f"not complete: {one.what}: {one.given} of {one.wanted} signed; who can still:"
        )
        lines += [f"  {words.key_words(signed.manifest.suite, key)}" for key in one.keys]
    return lines


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        lines += wrapped(text, f"{name:{width}}  ", " " * (width + 2))
    return lines


def _print(arguments: argparse.Namespace, told: object, lines: Sequence[str]) -> None:
    print(json.dumps(told, indent=2) if arguments.json else "\n".join(lines))
