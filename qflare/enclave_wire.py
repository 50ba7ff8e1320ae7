"""What the coordinator and the enclave say to each other over the Unix socket.

Frames of a 4-byte big-endian length and one message. The coordinator asks, the enclave answers
each request with one reply, in order. Nothing in a reply but receipts and models ever depended on
a single update's content.
"""

from dataclasses import dataclass
from typing import ClassVar

from qflare.messages import BLOB_MAX, KIB, EnclaveClaims, Evidence, Message
from qflare.names import DeviceId, Digest
from qflare.policy import OwnerManifest, RoundPolicy
from qflare.record import Record

FRAME_MAX = BLOB_MAX * 3
SLACK = 256 * KIB


@dataclass(frozen=True)
class Configure(Message):
    """Use this owner manifest (signed by the owner key that the enclave was started with)."""

    TAG: ClassVar[int] = 40
    CEILING: ClassVar[int] = OwnerManifest.CEILING + SLACK

    manifest: bytes


@dataclass(frozen=True)
class Predecessor(Record):
    """The receipt that released the model to start from, with the claims of its enclave.

    No evidence: devices appraise every enclave in the chain before they answer (docs/adr/0015).
    """

    CEILING: ClassVar[int] = SLACK

    receipt: bytes  # signed
    claims: EnclaveClaims


@dataclass(frozen=True)
class OpenRound(Message):
    """Make an epoch's keys for this round; asking again with the same words is harmless."""

    TAG: ClassVar[int] = 42
    CEILING: ClassVar[int] = 2 * BLOB_MAX + 8 * SLACK

    round: int
    opened_at: int  # Unix seconds; only for the claims
    policy: RoundPolicy
    candidates: tuple[DeviceId, ...]  # whom to choose from; empty: no list, all may answer
    predecessor: Predecessor | None  # None: the genesis model
    weights: bytes
    state: bytes  # of the server optimiser; empty with the genesis model


@dataclass(frozen=True)
class Admit(Message):
    """Admit this update to the open round."""

    TAG: ClassVar[int] = 43
    CEILING: ClassVar[int] = BLOB_MAX + SLACK

    certificate: bytes  # DER of the device that signed it
    update: bytes


@dataclass(frozen=True)
class Release(Message):
    """Close the round: aggregate, step, sign."""

    TAG: ClassVar[int] = 44
    CEILING: ClassVar[int] = 64

    round: int


@dataclass(frozen=True)
class Ask(Message):
    """Where are you?"""

    TAG: ClassVar[int] = 45
    CEILING: ClassVar[int] = 64


@dataclass(frozen=True)
class Standing(Message):
    """Reply to Configure and Ask."""

    TAG: ClassVar[int] = 50
    CEILING: ClassVar[int] = 1 * KIB

    provider: str
    measurement: Digest
    manifest: Digest  # ZERO before Configure
    open_round: int  # 0: none
    admitted: int  # in the open round
    released_round: int  # the last one, 0: none


@dataclass(frozen=True)
class RoundOpened(Message):
    """Reply to OpenRound."""

    TAG: ClassVar[int] = 51
    CEILING: ClassVar[int] = SLACK

    cohort: tuple[DeviceId, ...]
    claims: EnclaveClaims
    evidence: Evidence


@dataclass(frozen=True)
class Admitted(Message):
    """Reply to Admit: the update counts (it may have counted before)."""

    TAG: ClassVar[int] = 52
    CEILING: ClassVar[int] = 128

    device: DeviceId
    update: Digest
    again: bool


@dataclass(frozen=True)
class Released(Message):
    """Reply to Release; asked again, the same bytes again."""

    TAG: ClassVar[int] = 53
    CEILING: ClassVar[int] = 2 * BLOB_MAX + SLACK

    receipt: bytes  # RoundReceipt signed by the enclave
    weights: bytes
    state: bytes


@dataclass(frozen=True)
class Refused(Message):
    """Reply to anything that broke a rule."""

    TAG: ClassVar[int] = 54
    CEILING: ClassVar[int] = 1 * KIB

    reason: str  # a faults.Reason
    detail: str


REQUESTS = (Configure, OpenRound, Admit, Release, Ask)
REPLIES = (Standing, RoundOpened, Admitted, Released, Refused)
