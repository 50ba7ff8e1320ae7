"""What a round may do (RoundPolicy), and what the fleet owner allows (OwnerManifest).

A policy's digest is in every offer, receipt and piece of evidence. The owner signs the manifest
offline; nothing that the coordinator says can go beyond it.
"""

from dataclasses import dataclass
from typing import ClassVar

from qflare.faults import PeerFault, Reason
from qflare.names import Digest, FleetId
from qflare.record import Record, check
from qflare.schedule import Schedule
from qflare.tallies import CLASSES_MAX

COHORT_MAX = 100_000
WEIGHT_MAX = 2**20  # examples of one device that can count
SIGNED_CODE = ("sgx", "sev_snp")  # evidence that says who signed the code


@dataclass(frozen=True)
class RoundPolicy(Record):
    """The rules of one round; the enclave and every device enforce them."""

    CEILING: ClassVar[int] = 1024

    suite: str
    codec: str
    min_cohort: int  # fewer admitted updates than this and nothing is released
    max_cohort: int
    clip_norm: float  # L2 norm of an update, in units of the weights
    weight_cap: int  # the largest weight (number of examples) that counts
    deadline_s: int  # from the offer to the end of acceptance, seconds
    schedule: Schedule

    def __post_init__(self) -> None:
        check(1 <= self.min_cohort <= self.max_cohort, "policy: min_cohort outside 1…max_cohort")
        check(self.max_cohort <= COHORT_MAX, f"policy: max_cohort above {COHORT_MAX}")
        check(0 < self.clip_norm <= 1024, "policy: clip_norm outside (0, 1024]")
        check(1 <= self.weight_cap <= WEIGHT_MAX, "policy: weight_cap outside 1…2^20")
        check(1 <= self.deadline_s <= 30 * 86_400, "policy: deadline_s outside 1 s…30 d")
        check(0 < len(self.suite) <= 64 and 0 < len(self.codec) <= 64, "policy: bad name")

    @property
    def digest(self) -> Digest:
        """What offers, claims and receipts name the policy by."""
        return Digest.of(b"qflare/1/policy\0", self.to_bytes())


@dataclass(frozen=True)
class PolicyBounds(Record):
    """How far a coordinator's policies may go."""

    CEILING: ClassVar[int] = 2048

    suites: tuple[str, ...]
    codecs: tuple[str, ...]
    min_cohort_floor: int
    clip_norm_max: float
    weight_cap_max: int

    def verify(self, policy: RoundPolicy) -> None:
        """Raise PeerFault(POLICY_NOT_ALLOWED) unless `policy` is within these bounds."""
        for ok, what in (
            (policy.suite in self.suites, f"suite {policy.suite!r}"),
            (policy.codec in self.codecs, f"codec {policy.codec!r}"),
            (policy.min_cohort >= self.min_cohort_floor, f"min_cohort {policy.min_cohort}"),
            (policy.clip_norm <= self.clip_norm_max, f"clip_norm {policy.clip_norm}"),
            (policy.weight_cap <= self.weight_cap_max, f"weight_cap {policy.weight_cap}"),
        ):
            check(ok, f"the owner manifest doesn't allow {what}", Reason.POLICY_NOT_ALLOWED)


@dataclass(frozen=True)
class ReferenceValue(Record):
    """Code that the owner accepts from one kind of evidence (RATS reference value).

    Code is named by its measurement, or, where the evidence says who signed it, by signer and
    product, from a security version on. Evidence that is signed by the platform's own key (process,
    TPM) has that key's digest as its signer, and the measurement always has to be given.
    """

    CEILING: ClassVar[int] = 256

    provider: str
    measurement: Digest | None
    signer: Digest | None = None
    product: int = 0
    svn: int = 0  # the least security version

    def __post_init__(self) -> None:
        by_signer = self.provider in SIGNED_CODE and self.signer is not None
        check(self.measurement is not None or by_signer, "reference value: names no code")
        check(0 <= self.product < 2**16 and 0 <= self.svn < 2**32, "reference value: bad number")


@dataclass(frozen=True)
class AppraisalPolicy(Record):
    """What evidence has to be worth, beside coming from code that is a reference value."""

    CEILING: ClassVar[int] = 64 * 1024

    tier: int  # the least of verifiers.facts.Tier
    tcb_statuses: tuple[str, ...] = ("UpToDate",)  # of a platform, that are accepted
    refused_advisories: tuple[str, ...] = ()  # of the vendor's, like INTEL-SA-00615
    tcb_evaluation: int = 0  # the least number of the vendor's list by which it was judged
    layers: tuple[str, ...] = ()  # protections that a process without hardware must have
    revoked: tuple[Digest, ...] = ()  # measurements that no longer count
    insecure_roots: tuple[Digest, ...] = ()  # SHA-256 of roots (DER) beside the vendors': worth 0

    def __post_init__(self) -> None:
        check(0 <= self.tier <= 3, "appraisal: tier outside 0…3")


@dataclass(frozen=True)
class Genesis(Record):
    """The model that the fleet starts from; blobs are found by their digests."""

    CEILING: ClassVar[int] = 64 * 1024

    graph: Digest  # the .tflite file, which says of itself what it is (docs/adr/0009)
    weights: Digest  # its initial weights: float32 little-endian, flat, in its manifest's order
    parameters: tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes, in that order
    classes: int  # rows of the tallies; 1 for a task without classes

    def __post_init__(self) -> None:
        check(0 < len(self.parameters) <= 4096, "genesis: between 1 and 4,096 parameters")
        for name, shape in self.parameters:
            check(0 < len(name) <= 256 and len(shape) <= 8, f"genesis: bad parameter {name[:40]!r}")
            check(all(0 < n <= 2**31 for n in shape), f"genesis: bad shape of {name[:40]!r}")
        check(self.size <= 2**28, "genesis: more than 2^28 parameters")
        check(1 <= self.classes <= CLASSES_MAX, f"genesis: classes outside 1…{CLASSES_MAX}")

    @property
    def size(self) -> int:
        """Number of scalars in the model."""
        total = 0
        for _, shape in self.parameters:
            count = 1
            for n in shape:
                count *= n
            total += count
        return total


@dataclass(frozen=True)
class OwnerManifest(Record):
    """Everything that the fleet owner vouches for; signatures and owners: owners.py."""

    CEILING: ClassVar[int] = 256 * 1024
    CONTEXT: ClassVar[str] = "owner-manifest"

    fleet: FleetId
    version: int  # only ever rises
    issued: int  # Unix seconds by the owner's clock
    expires: int  # Unix seconds; nothing is sealed under it afterwards
    suite: str  # of every signature in the fleet
    coordinator_key: bytes
    device_cas: tuple[bytes, ...]  # DER certificates
    revoked: tuple[bytes, ...]  # serial numbers, big-endian, of device certificates
    genesis: Genesis
    bounds: PolicyBounds
    reference_values: tuple[ReferenceValue, ...]
    appraisal: AppraisalPolicy
    allow_insecure: bool  # accept evidence that proves nothing: for simulations only
    owners: int = 0  # by which owners it is signed: how often they changed (owners.py)

    def __post_init__(self) -> None:
        check(1 <= self.version < 2**31, "manifest: version outside 1…2^31-1")
        check(1 <= len(self.device_cas) <= 8, "manifest: between 1 and 8 device CAs")
        check(0 <= self.issued < self.expires < 2**63, "manifest: expires before it is issued")
        insecure = self.appraisal.tier == 0 or bool(self.appraisal.insecure_roots)
        check(self.allow_insecure or not insecure, "manifest: simulated evidence wants the mark")

    @property
    def digest(self) -> Digest:
        """What claims name the manifest by."""
        return Digest.of(b"qflare/1/owner-manifest\0", self.to_bytes())

    @property
    def revoked_serials(self) -> frozenset[int]:
        """Serial numbers of the device certificates that no longer count."""
        return frozenset(int.from_bytes(serial, "big") for serial in self.revoked)

    def verify_current(self, now: int) -> None:
        """Raise PeerFault(EXPIRED_MANIFEST) if it has ended at `now` (Unix seconds)."""
        detail = f"manifest {self.version} has ended; the owner has to sign the next one"
        check(now < self.expires, detail, Reason.EXPIRED_MANIFEST)

    def verify_successor(self, newer: "OwnerManifest") -> None:
        """Raise PeerFault(ROLLBACK) unless `newer` may follow this manifest."""
        if newer.fleet != self.fleet:
            raise PeerFault(Reason.WRONG_FLEET, f"manifest of fleet {newer.fleet}")
        if newer.version < self.version or (newer.version == self.version and newer != self):
            raise PeerFault(Reason.ROLLBACK, f"manifest {newer.version} after {self.version}")
