"""Every message of protocol version 1: one class, one tag, one ceiling each.

On the wire a message is the CBOR array [tag, field, …]. What is signed, by whom and under which
context is said by envelope.py and docs/protocol.md.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, ClassVar, Final, Self

from qflare import codec
from qflare.codec import Value
from qflare.faults import PeerFault, Reason
from qflare.names import DeviceId, Digest, FleetId, parse_round
from qflare.policy import COHORT_MAX, WEIGHT_MAX, RoundPolicy
from qflare.record import Record, check
from qflare.tallies import Tallies, classes_of
from qflare.tallies import verify as verify_tallies

KIB = 1024
CHUNK_MAX = 256 * KIB  # one PUBLISH of a transfer
BLOB_MAX = 1024 * KIB * KIB  # a model or an update, whole
COHORT_LISTED_MAX = 512  # devices named in an offer
PROOF_MAX = 64
ZERO = Digest(bytes(32))  # "there is none yet"


class Message(Record):
    """A record with a tag in front, so that no message can be read as another."""

    TAG: ClassVar[int]

    def to_bytes(self) -> bytes:
        return codec.encode([self.TAG, *self.to_value()])

    @classmethod
    def parse(cls, data: bytes) -> Self:
        value = codec.decode(data, cls.CEILING)
        if not isinstance(value, list) or not value or value[0] != cls.TAG or value[0] is True:
            raise PeerFault(Reason.MALFORMED, f"not a {cls.__name__}")
        return cls.from_value(value[1:])


# --- the round ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnclaveClaims(Record):
    """What the enclave says of itself and of the round it opened.

    Its digest binds everything that a device answers with: it is the `info` of every seal and is
    named by every update header. `report_data` of the evidence is derived from it (appraisal.py).
    """

    CEILING: ClassVar[int] = 16 * KIB  # of which a KEM key of FrodoKEM is 9.4 KiB

    fleet: FleetId
    suite: str
    manifest: Digest
    round: int
    opened_at: int  # Unix seconds by the host's clock; nothing inside the enclave depends on it
    epoch: int  # counts KEM key pairs; each lives for one offer
    step: int  # number of models released before this round, plus 1: paces the schedule
    policy: Digest
    cohort: Digest  # of the invited devices' names, or ZERO when all may answer
    model: Digest  # the weights to start from
    state: Digest  # the server optimiser's state, or ZERO
    receipt: Digest  # the receipt that released `model`, or ZERO for the genesis model
    kem_key: bytes
    signing_key: bytes

    def __post_init__(self) -> None:
        parse_round(self.round)
        check(1 <= self.step <= self.round, "claims: step outside 1…round")
        check(0 < self.epoch < 2**63, "claims: bad epoch")
        check(0 <= self.opened_at < 2**63, "claims: bad time")

    @property
    def digest(self) -> Digest:
        """The digest that seals and update headers bind."""
        return Digest.of(b"qflare/1/claims\0", self.to_bytes())

    @property
    def report_data(self) -> bytes:
        """The 64 bytes by which evidence binds these claims."""
        return hashlib.sha512(b"qflare/1/report-data\0" + self.to_bytes()).digest()


@dataclass(frozen=True)
class Evidence(Record):
    """RATS evidence, in its provider's own format, and what speaks for its platform.

    Endorsements (certificates, revocation lists, collateral) are not the attester's: whoever relays
    the evidence may put newer ones in their place.
    """

    CEILING: ClassVar[int] = 32 * KIB

    provider: str
    body: bytes
    endorsements: bytes = b""


@dataclass(frozen=True)
class Checkpoint(Record):
    """Size and Merkle root of the ledger; only ever spoken inside a signed message."""

    CEILING: ClassVar[int] = 128

    size: int
    root: Digest

    def __post_init__(self) -> None:
        check(0 <= self.size < 2**31, "checkpoint: bad size")


@dataclass(frozen=True)
class RoundOffer(Message):
    """Coordinator to all, retained, signed: take part in this round on these terms."""

    TAG: ClassVar[int] = 1
    CEILING: ClassVar[int] = 64 * KIB
    CONTEXT: ClassVar[str] = "round-offer"

    fleet: FleetId
    round: int
    policy: RoundPolicy
    cohort: tuple[DeviceId, ...]  # invited devices, sorted; empty: every device
    claims: EnclaveClaims
    evidence: Evidence
    checkpoint: Checkpoint
    closes_at: int  # Unix seconds by the coordinator's clock; advice, nothing depends on it

    def __post_init__(self) -> None:
        check(self.round == self.claims.round, "offer: claims of another round", Reason.WRONG_ROUND)
        check(len(self.cohort) <= COHORT_LISTED_MAX, "offer: too many invitations")
        check(cohort_digest(self.cohort) == self.claims.cohort, "offer: cohort not as claimed")
        check(self.policy.digest == self.claims.policy, "offer: policy not as claimed")


def cohort_digest(cohort: tuple[DeviceId, ...]) -> Digest:
    """The digest by which claims name the invited devices; ZERO for no list."""
    if not cohort:
        return ZERO
    check(all(a < b for a, b in pairwise(cohort)), "cohort: not sorted")
    return Digest.of(b"qflare/1/cohort\0", codec.encode([str(name) for name in cohort]))


@dataclass(frozen=True)
class UpdateHeader(Message):
    """Device to coordinator and enclave, signed; the only part of an update that is in clear."""

    TAG: ClassVar[int] = 2
    CEILING: ClassVar[int] = 512
    CONTEXT: ClassVar[str] = "update-header"

    fleet: FleetId
    device: DeviceId
    certificate: Digest  # fingerprint of the device certificate
    round: int
    epoch: int
    claims: Digest  # of the EnclaveClaims that this answers
    sealed: Digest  # of the sealed payload
    sealed_size: int  # bytes

    def __post_init__(self) -> None:
        parse_round(self.round)
        check(0 < self.sealed_size <= BLOB_MAX, "update: bad size", Reason.TOO_LARGE)


@dataclass(frozen=True)
class UpdatePayload(Message):
    """What is sealed to the enclave: the weight, the encoded update, and the device's tallies."""

    TAG: ClassVar[int] = 3
    CEILING: ClassVar[int] = BLOB_MAX

    weight: int  # number of examples trained on
    encoded: bytes  # by the policy's codec
    tallies: Tallies  # of the device's own validation part; zeros without one


class ReceiptStatus(StrEnum):
    """What became of an update that was sent."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(frozen=True)
class UpdateReceipt(Message):
    """Coordinator to one device, signed: your update is durable here, or will not be.

    The only thing that lets a device drop its outbox entry.
    """

    TAG: ClassVar[int] = 4
    CEILING: ClassVar[int] = 512
    CONTEXT: ClassVar[str] = "update-receipt"

    fleet: FleetId
    device: DeviceId
    round: int
    update: Digest
    status: ReceiptStatus
    reason: str  # a faults.Reason, or empty


@dataclass(frozen=True)
class RoundReceipt(Message):
    """The enclave's signed word on a released round, and a leaf of the ledger."""

    TAG: ClassVar[int] = 5
    CEILING: ClassVar[int] = 32 * KIB  # of which tallies for 1,024 classes are 27 KiB
    CONTEXT: ClassVar[str] = "round-receipt"

    fleet: FleetId
    manifest: Digest
    round: int
    epoch: int
    step: int
    claims: Digest
    policy: Digest
    previous_receipt: Digest
    previous_model: Digest
    model: Digest  # SHA-256 of the weights' bytes
    state: Digest  # of the server optimiser's state
    admitted: int
    refused: tuple[tuple[str, int], ...]  # (reason, count), sorted
    total_weight: int
    updates: Digest  # Merkle root over the admitted updates, in order of device
    seed: Digest  # chooses the next cohort
    tallies: Tallies  # the sums over the admitted updates

    def __post_init__(self) -> None:
        verify_tallies(self.tallies, classes_of(self.tallies), COHORT_MAX * WEIGHT_MAX)

    @property
    def digest(self) -> Digest:
        """What the next round's claims name this receipt by."""
        return Digest.of(b"qflare/1/round-receipt\0", self.to_bytes())

    def disagreement(self, claims: EnclaveClaims) -> str:
        """What this receipt says otherwise than `claims`; empty if it speaks of their round."""
        pairs = {
            "fleet": (self.fleet, claims.fleet),
            "manifest": (self.manifest, claims.manifest),
            "round": (self.round, claims.round),
            "epoch": (self.epoch, claims.epoch),
            "step": (self.step, claims.step),
            "claims": (self.claims, claims.digest),
            "policy": (self.policy, claims.policy),
            "predecessor": (self.previous_receipt, claims.receipt),
            "model to start from": (self.previous_model, claims.model),
        }
        return next((what for what, (ours, theirs) in pairs.items() if ours != theirs), "")


def update_leaf(device: DeviceId, update: Digest) -> bytes:
    """The Merkle leaf of one admitted update."""
    return codec.encode(["qflare/1/update-leaf", str(device), update.raw])


@dataclass(frozen=True)
class ModelReady(Message):
    """Coordinator to all, retained, signed: a model was released, and here is the proof."""

    TAG: ClassVar[int] = 6
    CEILING: ClassVar[int] = 96 * KIB
    CONTEXT: ClassVar[str] = "model-ready"

    fleet: FleetId
    receipt: bytes  # RoundReceipt signed by the enclave (envelope bytes)
    claims: EnclaveClaims  # of the enclave that signed it
    evidence: Evidence
    checkpoint: Checkpoint  # the receipt is its last leaf
    inclusion: tuple[Digest, ...]  # of the receipt in the checkpoint
    consistency: tuple[Digest, ...]  # from the checkpoint of one leaf less
    model_size: int  # bytes

    def __post_init__(self) -> None:
        check(0 < self.model_size <= BLOB_MAX, "model: bad size", Reason.TOO_LARGE)
        check(len(self.inclusion) <= PROOF_MAX and len(self.consistency) <= PROOF_MAX, "proof")


# --- presence ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceHello(Message):
    """Device to coordinator, at every connection: my certificate."""

    TAG: ClassVar[int] = 10
    CEILING: ClassVar[int] = 16 * KIB

    certificate: bytes  # DER
    session: int


@dataclass(frozen=True)
class CoordinatorHello(Message):
    """Coordinator to all, when it starts: greet and offer again."""

    TAG: ClassVar[int] = 11
    CEILING: ClassVar[int] = 64

    session: int


class Presence(StrEnum):
    """The status in a retained state message."""

    ONLINE = "online"
    LOST = "lost"
    STOPPED = "stopped"


DETAIL_MAX: Final = 200  # characters of PartyState.detail


@dataclass(frozen=True)
class PartyState(Message):
    """Retained birth or death certificate of a device or the coordinator; the will repeats it."""

    TAG: ClassVar[int] = 12
    CEILING: ClassVar[int] = KIB

    status: Presence
    session: int
    version: str
    detail: str  # why it doesn't train at the moment, for people; empty if nothing holds it


@dataclass(frozen=True)
class Telemetry(Message):
    """Device to coordinator, signed: how the last round went here, and how good the model is."""

    TAG: ClassVar[int] = 13
    CEILING: ClassVar[int] = 8 * KIB
    CONTEXT: ClassVar[str] = "telemetry"

    fleet: FleetId
    device: DeviceId
    round: int
    model: Digest  # the model that was evaluated
    examples: int  # in the local test part
    correct: int
    loss_sum: float
    stages: tuple[tuple[str, float], ...]  # (name, seconds), sorted
    counters: tuple[tuple[str, int], ...]  # (name, count), sorted

    def __post_init__(self) -> None:
        check(0 <= self.correct <= self.examples < 2**53, "telemetry: bad counts")


def parse_any(data: bytes, *kinds: type[Any]) -> Any:
    """Parse one of several message classes by its tag; raise PeerFault if it is none of them."""
    value: Value = codec.decode(data, max(kind.CEILING for kind in kinds))
    tag = value[0] if isinstance(value, list) and value else None
    for kind in kinds:
        if type(tag) is int and tag == kind.TAG:
            return kind.parse(data)
    raise PeerFault(Reason.MALFORMED, "none of the messages that belong here")
