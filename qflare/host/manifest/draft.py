"""The owner manifest as people write it: a TOML file, and the files that it names.

No version and no dates are in it: both come when it is signed, so that none can be forgotten.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from qflare.compression import CODECS
from qflare.crypto.certificates import CERTIFICATE_MAX
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import DEFAULT, parse_suite
from qflare.faults import PeerFault
from qflare.host.config import ConfigFault, Settings, load, read_file
from qflare.host.files import write_atomic
from qflare.messages import KIB
from qflare.names import Digest, FleetId
from qflare.owners import Owners
from qflare.policy import (
    AppraisalPolicy,
    Genesis,
    OwnerManifest,
    PolicyBounds,
    ReferenceValue,
)

DAY: Final = 86_400
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="64 digits of SHA-256")]
Serial = Annotated[str, Meta(pattern=r"^[0-9a-f]{1,40}$")]
Provider = Literal["process", "tpm", "tdx", "sev_snp", "sgx", "nitro", "insecure_simulated"]
TierName = Literal["simulated", "process", "tpm", "hardware"]
TIERS: Final[tuple[TierName, ...]] = ("simulated", "process", "tpm", "hardware")


class GenesisDraft(Settings):
    """The model that the fleet starts from."""

    model: Path


class BoundsDraft(Settings):
    """How far a coordinator's policies may go."""

    min_cohort_floor: Annotated[int, Meta(ge=1, le=100_000)] = 10
    clip_norm_max: Annotated[float, Meta(gt=0, le=1024)] = 1.0
    weight_cap_max: Annotated[int, Meta(ge=1, le=2**20)] = 1000
    codecs: tuple[str, ...] = ("q8", "q8z")
    suites: tuple[str, ...] = (DEFAULT.name,)


class AppraisalDraft(Settings):
    """What an enclave's evidence has to be worth."""

    tier: TierName = "process"
    tcb_statuses: tuple[str, ...] = ("UpToDate",)
    refused_advisories: tuple[str, ...] = ()
    tcb_evaluation: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    layers: tuple[str, ...] = ()
    revoked_measurements: tuple[Hex64, ...] = ()
    insecure_roots: tuple[Hex64, ...] = ()


class ReferenceDraft(Settings):
    """Code that is accepted, by its measurement or by its signer."""

    provider: Provider
    measurement: Hex64 | None = None
    signer: Hex64 | None = None
    product: Annotated[int, Meta(ge=0, lt=2**16)] = 0
    svn: Annotated[int, Meta(ge=0, lt=2**32)] = 0


class OwnersDraft(Settings):
    """Who is to speak for the fleet; without it, whoever did before."""

    threshold: Annotated[int, Meta(ge=1)]
    keys: tuple[Path, ...]


class Draft(Settings):
    """One manifest, not signed yet."""

    fleet: str
    coordinator_key: Path
    device_cas: tuple[Path, ...]
    genesis: GenesisDraft
    suite: str = DEFAULT.name
    valid_days: Annotated[int, Meta(ge=1, le=3650)] = 365
    revoked_devices: tuple[Serial, ...] = ()
    insecure_allow_simulated: bool = False
    bounds: BoundsDraft = BoundsDraft()
    appraisal: AppraisalDraft = AppraisalDraft()
    reference_values: tuple[ReferenceDraft, ...] = ()
    owners: OwnersDraft | None = None


def read_draft(path: Path) -> Draft:
    """Raise ConfigFault that names file, key and remedy."""
    return load(Draft, "manifest", path, {}).value


def write_draft(path: Path, draft: Draft) -> None:
    """Replace the file; raises OSError."""
    write_atomic(path, render(draft).encode(), 0o644)


_WHY: Final = {
    "fleet": "The owner manifest of a fleet, to be signed with: qflare manifest sign",
    "coordinator_key": "its verify key; the paths are from this file's folder on",
    "device_cas": "DER; a CA that is no longer here takes its devices along",
    "valid_days": "from signing on; no device seals anything under a manifest that has ended",
    "revoked_devices": "serial numbers of certificates, in hexadecimal",
    "insecure_allow_simulated": "true takes evidence that proves nothing: for simulations alone",
    "genesis": "The model that the fleet starts from",
    "bounds": "How far the coordinator's policies may go",
    "min_cohort_floor": "fewer updates than this are never added up",
    "clip_norm_max": "L2 norm of one update, in units of the weights",
    "weight_cap_max": "examples of one device that count, at most",
    "appraisal": "What an enclave's evidence has to be worth before a device seals anything",
    "tier": "the least: process (a hardened process; its host's root may look in), tpm, hardware",
    "tcb_statuses": "of a platform, in its maker's words",
    "refused_advisories": "of the maker's, like INTEL-SA-00615",
    "tcb_evaluation": "the least number of the maker's list by which a platform is judged",
    "layers": "protections that a process without hardware must have",
    "insecure_roots": "roots beside the makers' own, whose evidence is worth nothing",
    "owners": "Who speaks for the fleet from this manifest on",
    "threshold": "so many of the keys have to sign",
}


def tree_of(draft: Settings) -> dict[str, Any]:
    """Tables, lists and scalars, as TOML and JSON know them."""
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(draft, enc_hook=str))
    return tree


def render(draft: Draft) -> str:
    """The file's text, with a comment where one helps."""
    tree = tree_of(draft)
    if draft.owners is None:
        tree.pop("owners")
    values = tree.pop("reference_values")
    tables = {key: tree.pop(key) for key in list(tree) if isinstance(tree[key], dict)}
    lines = [f"# {_WHY['fleet']}", *_lines(tree)]
    for name, table in tables.items():
        lines += ["", f"# {_WHY[name]}", f"[{name}]", *_lines(table)]
    lines += ["", "# Code that may run as the enclave; see: qflare enclave measure"]
    for value in values:
        given = {key: it for key, it in value.items() if it not in (None, 0)}
        lines += ["[[reference_values]]", *_lines(given), ""]
    return "\n".join(lines).rstrip() + "\n"


def _lines(table: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in table.items():
        why = f"  # {_WHY[key]}" if key in _WHY and key != "fleet" else ""
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}{why}")
    return lines


def changed(draft: Draft, **parts: Any) -> Draft:
    """A draft with other values in it."""
    return msgspec.structs.replace(draft, **parts)


def more(values: tuple[str, ...], added: Iterable[str]) -> tuple[str, ...]:
    """Without repetition, in order."""
    return tuple(dict.fromkeys((*values, *added)))


class Builder:
    """From a draft and the files that it names to a manifest."""

    def __init__(self, draft: Draft, folder: Path) -> None:
        self._draft, self._folder = draft, folder

    @property
    def fleet(self) -> FleetId:
        """Raise ConfigFault if it is no name."""
        try:
            return FleetId.parse(self._draft.fleet)
        except PeerFault as fault:
            raise ConfigFault(f"fleet: {fault.detail}") from None

    def owner_keys(self) -> tuple[int, list[bytes]] | None:
        """Threshold and raw keys that are wanted; None if the draft names none."""
        wanted = self._draft.owners
        if wanted is None:
            return None
        keys = [self._key(path) for path in wanted.keys]
        if len(set(keys)) < len(keys):
            raise ConfigFault("owners.keys: one key is there twice; each counts once")
        if wanted.threshold > len(keys):
            raise ConfigFault(f"owners.threshold: {wanted.threshold} of {len(keys)} keys can't be")
        return wanted.threshold, keys

    def manifest(self, version: int, issued: int, owners: Owners) -> OwnerManifest:
        """The manifest to be signed by `owners`; raise ConfigFault that says what to correct."""
        draft = self._draft
        _verify_sense(draft)
        try:
            made = OwnerManifest(
                fleet=self.fleet,
                version=version,
                issued=issued,
                expires=issued + draft.valid_days * DAY,
                suite=parse_suite(draft.suite).name,
                coordinator_key=self._key(draft.coordinator_key),
                device_cas=tuple(self._read(ca, CERTIFICATE_MAX) for ca in draft.device_cas),
                revoked=tuple(map(_serial, sorted({int(it, 16) for it in draft.revoked_devices}))),
                genesis=self._genesis(),
                bounds=self._bounds(),
                reference_values=tuple(_reference(value) for value in draft.reference_values),
                appraisal=_appraisal(draft.appraisal),
                allow_insecure=draft.insecure_allow_simulated,
                owners=owners.number,
            )
        except PeerFault as fault:
            raise ConfigFault(f"{fault.detail or fault}; correct it in the draft") from None
        if len(made.to_bytes()) > OwnerManifest.CEILING:
            raise ConfigFault("the manifest is too long: drop revoked devices of CAs that are gone")
        return made

    def _bounds(self) -> PolicyBounds:
        bounds = self._draft.bounds
        unknown = [name for name in bounds.codecs if name not in CODECS]
        if unknown or not bounds.codecs:
            raise ConfigFault(f"bounds.codecs: {unknown or 'none'}; choose from {[*CODECS]}")
        suites = tuple(parse_suite(name).name for name in bounds.suites)
        return PolicyBounds(
            suites,
            bounds.codecs,
            bounds.min_cohort_floor,
            bounds.clip_norm_max,
            bounds.weight_cap_max,
        )

    def _genesis(self) -> Genesis:
        from qflare.host.model.file import read_model_file  # needs more modules than all the rest

        model = read_model_file(self._folder / self._draft.genesis.model)
        return Genesis(
            graph=Digest.of(model.tflite),
            weights=Digest.of(model.weights),
            parameters=tuple((p.name, tuple(p.shape)) for p in model.manifest.parameters),
            classes=model.manifest.rows,
        )

    def _key(self, path: Path) -> bytes:
        raw = self._read(path, 64 * KIB)
        try:
            return VerifyKey.parse(parse_suite(self._draft.suite), raw).raw
        except PeerFault as fault:
            raise ConfigFault(f"{self._folder / path}: no verify key: {fault.detail}") from None

    def _read(self, path: Path, ceiling: int) -> bytes:
        return read_file(self._folder / path, ceiling)


def _verify_sense(draft: Draft) -> None:
    """Raise ConfigFault for what is well formed and can't be meant."""
    insecure = draft.appraisal.tier == "simulated" or bool(draft.appraisal.insecure_roots)
    simulated = any(value.provider == "insecure_simulated" for value in draft.reference_values)
    checks: tuple[tuple[bool, str], ...] = (
        (
            not (insecure or simulated) or draft.insecure_allow_simulated,
            "simulated evidence proves nothing; for a simulation say insecure_allow_simulated = "
            "true, for a real fleet raise appraisal.tier and drop what is simulated",
        ),
        (
            not draft.insecure_allow_simulated or draft.appraisal.tier == "simulated",
            'insecure_allow_simulated without appraisal.tier = "simulated" changes nothing; '
            "drop one of them",
        ),
        (
            bool(draft.reference_values),
            "no [[reference_values]]: devices would accept no enclave; add one with: qflare "
            "manifest add-measurement",
        ),
        (
            not {value.measurement for value in draft.reference_values}
            & set(draft.appraisal.revoked_measurements),
            "a measurement is a reference value and revoked; take it out of one of them",
        ),
    )
    for ok, says in checks:
        if not ok:
            raise ConfigFault(says)


def _appraisal(draft: AppraisalDraft) -> AppraisalPolicy:
    return AppraisalPolicy(
        tier=TIERS.index(draft.tier),
        tcb_statuses=draft.tcb_statuses,
        refused_advisories=draft.refused_advisories,
        tcb_evaluation=draft.tcb_evaluation,
        layers=draft.layers,
        revoked=tuple(Digest.parse(text) for text in draft.revoked_measurements),
        insecure_roots=tuple(Digest.parse(text) for text in draft.insecure_roots),
    )


def _reference(draft: ReferenceDraft) -> ReferenceValue:
    measurement = Digest.parse(draft.measurement) if draft.measurement else None
    signer = Digest.parse(draft.signer) if draft.signer else None
    return ReferenceValue(draft.provider, measurement, signer, draft.product, draft.svn)


def _serial(number: int) -> bytes:
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")
