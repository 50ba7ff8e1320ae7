"""A manifest in plain words: what it allows, and what the next one changes for whom. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import parse_suite
from qflare.enrolment import fingerprint_words
from qflare.names import Digest
from qflare.owners import Owners
from qflare.policy import OwnerManifest, ReferenceValue
from qflare.record import Record
from qflare.verifiers.facts import Tier

MEANING: Final = {
    Tier.SIMULATED: "proves nothing: for simulations alone",
    Tier.PROCESS: "a hardened process: whoever is root on its host can look in",
    Tier.TPM: "a host that booted what was measured: who owns its memory bus can look in",
    Tier.HARDWARE: "memory that its host can't read, by the word of the processor's maker",
}


def tier_words(tier: int) -> str:
    """A tier's name, and what it is worth."""
    return f"{Tier(tier).name.lower()} ({MEANING[Tier(tier)]})"


def date(seconds: int) -> str:
    """UTC, as people read it."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"


def key_words(suite: str, raw: bytes) -> str:
    """Six words by which two people compare a key; raises PeerFault for no key of the suite.

    Where the pinned key wasn't named, zeros stand for it.
    """
    if not any(raw):
        return "the first owner's key, which devices pin"
    return " ".join(fingerprint_words(VerifyKey.parse(parse_suite(suite), raw).fingerprint))


def rows(manifest: OwnerManifest, owners: Owners) -> list[tuple[str, str]]:
    """What it says, name by name."""
    bounds, wanted = manifest.bounds, manifest.appraisal
    out = [
        ("fleet", manifest.fleet),
        ("version", f"{manifest.version}, digest {manifest.digest}"),
        ("valid", f"{date(manifest.issued)} to {date(manifest.expires)}"),
        ("suite", manifest.suite),
        ("tier", f"{tier_words(wanted.tier)}, at least"),
    ]
    if manifest.allow_insecure:
        out.append(("INSECURE", "evidence that proves nothing is accepted"))
    out += [("INSECURE", f"root {root} beside the makers'") for root in wanted.insecure_roots]
    out += [("code", reference_words(value)) for value in manifest.reference_values]
    out += [("revoked code", str(measurement)) for measurement in wanted.revoked]
    out += [
        (
            "platform",
            f"TCB status {_some(wanted.tcb_statuses)}, list {wanted.tcb_evaluation} or on",
        ),
        ("advisories", f"refused: {_some(wanted.refused_advisories)}"),
        ("layers", f"a process must have: {_some(wanted.layers)}"),
        ("updates", f"{bounds.min_cohort_floor} at least are added up before anything is released"),
        ("", f"norm at most {bounds.clip_norm_max:g}, {bounds.weight_cap_max} examples count"),
        ("codecs", _some(bounds.codecs)),
        ("suites", _some(bounds.suites)),
        ("coordinator", key_words(manifest.suite, manifest.coordinator_key)),
    ]
    out += [("device CA", str(Digest.of(ca))) for ca in manifest.device_cas]
    out.append(("revoked", f"{len(manifest.revoked)} device certificates"))
    genesis = manifest.genesis
    out.append(("model", f"{genesis.size} parameters, {genesis.classes} rows, {genesis.weights}"))
    return [*out, *owner_rows(owners, manifest.suite)]


def owner_rows(owners: Owners, suite: str) -> list[tuple[str, str]]:
    """Who speaks for the fleet."""
    many = f"{owners.threshold} of {len(owners.keys)} have to sign"
    how = f"{many}; they changed {owners.number} times" if owners.number else many
    return [("owners", how), *(("", key_words(suite, raw)) for raw in owners.keys)]


def reference_words(value: ReferenceValue) -> str:
    """One line for a reference value, its tier included."""
    tier = {"insecure_simulated": Tier.SIMULATED, "process": Tier.PROCESS, "tpm": Tier.TPM}
    worth = tier.get(value.provider, Tier.HARDWARE).name.lower()
    parts = [f"{value.provider} (tier {worth})"]
    if value.measurement is not None:
        parts.append(f"measurement {value.measurement}")
    if value.signer is not None:
        parts.append(f"signer {value.signer}, product {value.product}")
    return ", ".join([*parts, *([f"version {value.svn} or later"] if value.svn else [])])


def tree(record: Record) -> dict[str, Any]:
    """For JSON: names and values, bytes in hexadecimal."""
    return {one.name: _plain(getattr(record, one.name)) for one in fields(record)}  # type: ignore[arg-type]


def _plain(value: object) -> Any:
    match value:
        case Record():
            return tree(value)
        case tuple():
            return [_plain(one) for one in value]
        case bytes():
            return value.hex()
        case Digest():
            return str(value)
    return value


@dataclass(frozen=True)
class Difference:
    """One thing that changes."""

    whom: str  # devices, enclave, coordinator, owners
    says: str
    weaker: bool = False  # does it allow more than before?


_LESS: Final[Mapping[str, tuple[str, str, str, bool]]] = {
    # name: whom, of what, in words, whether less of it allows more
    "min_cohort_floor": ("enclave", "bounds", "updates before a release, at least", True),
    "clip_norm_max": ("coordinator", "bounds", "norm of an update, at most", False),
    "weight_cap_max": ("coordinator", "bounds", "examples of one device that count", False),
    "tcb_evaluation": ("enclave", "appraisal", "list by which a platform is judged", True),
}


def differences(
    old: OwnerManifest, new: OwnerManifest, before: Owners, after: Owners
) -> list[Difference]:
    """What `new` changes, the weakening ones first."""
    out = [*_people(old, new, before, after), *_enclave(old, new)]
    for name, (whom, part, words, less_allows) in _LESS.items():
        was, now = getattr(getattr(old, part), name), getattr(getattr(new, part), name)
        if was != now:
            out.append(
                Difference(whom, f"{words}: {was:g} becomes {now:g}", (now < was) is less_allows)
            )
    for name in ("codecs", "suites"):
        gone, come = _moved(getattr(old.bounds, name), getattr(new.bounds, name))
        out += [Difference("coordinator", f"{name}: {one} isn't allowed any more") for one in gone]
        out += [Difference("coordinator", f"{name}: {one} is allowed", True) for one in come]
    return sorted(out, key=lambda one: (not one.weaker, one.whom))


def _people(
    old: OwnerManifest, new: OwnerManifest, before: Owners, after: Owners
) -> Iterable[Difference]:
    if before != after:
        fewer = after.threshold < before.threshold
        was, now = (f"{one.threshold} of {len(one.keys)}" for one in (before, after))
        yield Difference("owners", f"who signs: {was} becomes {now}", fewer)
        gone, come = _moved(before.keys, after.keys)
        yield from (Difference("owners", f"{key_words(old.suite, key)} leaves") for key in gone)
        yield from (Difference("owners", f"{key_words(new.suite, key)} comes") for key in come)
    if old.fleet != new.fleet or old.suite != new.suite:
        yield Difference("devices", "another fleet or suite: no device will take it")
    if old.expires != new.expires:
        yield Difference("devices", f"ends at {date(new.expires)}, not {date(old.expires)}")
    gone_cas, come_cas = _moved(old.device_cas, new.device_cas)
    for ca in gone_cas:
        yield Difference("devices", f"CA {Digest.of(ca)} leaves: its devices are out")
    for ca in come_cas:
        yield Difference("devices", f"CA {Digest.of(ca)} comes: its devices may join", True)
    back, out = _moved(old.revoked, new.revoked)
    yield from (Difference("devices", f"certificate {one.hex()} is revoked") for one in out)
    yield from (
        Difference("devices", f"certificate {one.hex()} counts again", True) for one in back
    )
    if old.coordinator_key != new.coordinator_key:
        words = key_words(new.suite, new.coordinator_key)
        yield Difference("coordinator", f"another key: {words}; offers by the old one are refused")
    if old.genesis != new.genesis:
        yield Difference("devices", "another first model: training starts anew")


def _enclave(old: OwnerManifest, new: OwnerManifest) -> Iterable[Difference]:
    was, now = old.appraisal, new.appraisal
    if was.tier != now.tier:
        says = f"tier: {Tier(was.tier).name.lower()} becomes {tier_words(now.tier)}"
        yield Difference("enclave", says, now.tier < was.tier)
    if old.allow_insecure != new.allow_insecure:
        says = "is accepted" if new.allow_insecure else "isn't accepted any more"
        yield Difference("enclave", f"evidence that proves nothing {says}", new.allow_insecure)
    gone, come = _moved(old.reference_values, new.reference_values)
    yield from (Difference("enclave", f"no more: {reference_words(one)}") for one in gone)
    yield from (Difference("enclave", f"may run: {reference_words(one)}", True) for one in come)
    for name, words, more_allows in (
        ("tcb_statuses", "TCB status {} is accepted", True),
        ("refused_advisories", "platforms with {} are refused", False),
        ("layers", "a process has to have {}", False),
        ("revoked", "measurement {} is revoked", False),
        ("insecure_roots", "root {} is accepted beside the makers'", True),
    ):
        left, new_ones = _moved(getattr(was, name), getattr(now, name))
        yield from (Difference("enclave", words.format(one), more_allows) for one in new_ones)
        gone_words = f"no more: {words}"
        yield from (Difference("enclave", gone_words.format(one), not more_allows) for one in left)


def _moved(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """What is gone, and what has come."""
    return [one for one in old if one not in new], [one for one in new if one not in old]


def _some(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"
