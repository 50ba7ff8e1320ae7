"""Everything that goes into the machine, and everything that comes out of it."""

from dataclasses import dataclass, field
from typing import Any

from qflare.effects import LinkDown as LinkDown
from qflare.effects import Publish
from qflare.effects import Received as Received
from qflare.effects import Tick as Tick
from qflare.enclave_wire import Admitted, Predecessor, Refused, RoundOpened, Standing
from qflare.names import DeviceId, Digest
from qflare.policy import RoundPolicy
from qflare.report import Health

# --- requests to the enclave: named here, put into wire form (with their blobs) by the shell -----


@dataclass(frozen=True)
class ConfigureEnclave:
    """Give the enclave the owner manifest, and learn where it stands."""


@dataclass(frozen=True)
class OpenEnclaveRound:
    """Open a round; blobs are named by digest, ZERO is "none"."""

    round: int
    opened_at: int  # Unix seconds
    policy: RoundPolicy
    candidates: tuple[DeviceId, ...]
    predecessor: Predecessor | None
    weights: Digest
    state: Digest


@dataclass(frozen=True)
class AdmitUpdate:
    """Hand one durable update to the enclave."""

    round: int
    device: DeviceId
    certificate: bytes = field(repr=False)  # DER
    update: Digest


@dataclass(frozen=True)
class ReleaseRound:
    """Aggregate, step, sign."""

    round: int


EnclaveRequest = ConfigureEnclave | OpenEnclaveRound | AdmitUpdate | ReleaseRound


@dataclass(frozen=True)
class ReleasedModel:
    """A `Released` reply whose blobs are already durable in the store, under these digests."""

    receipt: bytes = field(repr=False)
    weights: Digest
    weights_size: int
    state: Digest  # ZERO when there is none
    state_size: int


EnclaveReply = Standing | RoundOpened | Admitted | ReleasedModel | Refused

# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkUp:
    """Connected to the broker and subscribed."""


@dataclass(frozen=True)
class EnclaveUp:
    """Connected to the enclave's socket."""


@dataclass(frozen=True)
class EnclaveDown:
    """The connection is gone, and with it the replies to all requests on their way."""


@dataclass(frozen=True)
class EnclaveReplied:
    """The enclave's answer to one request; `seconds` is how long it worked on it."""

    request: EnclaveRequest
    reply: EnclaveReply
    seconds: float


@dataclass(frozen=True)
class TransferFinished:
    """An offered update is whole and durable in the spool; these are its bytes, unchecked."""

    device: DeviceId
    transfer: Digest
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class FannedOut:
    """Everything that can be said to everybody about a model was handed to the link."""

    model: Digest


Event = (
    LinkUp
    | LinkDown
    | Received
    | EnclaveUp
    | EnclaveDown
    | EnclaveReplied
    | TransferFinished
    | FannedOut
    | Tick
)

# --- what is written down ----------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceRegistered:
    """A device showed a certificate that verifies."""

    device: DeviceId
    certificate: bytes = field(repr=False)
    at: float


@dataclass(frozen=True)
class RoundOpening:
    """The inputs of an OpenRound request, before it is sent for the first time."""

    request: OpenEnclaveRound
    predecessor_round: int  # 0: genesis
    at: float


@dataclass(frozen=True)
class RoundOffered:
    """The enclave opened the round; `offer` is the signed offer that will be published."""

    round: int
    step: int
    offer: bytes = field(repr=False)
    invited: int
    tier: str
    open_seconds: float
    at: float
    closes_at: float


@dataclass(frozen=True)
class UpdateStored:
    """An update was accepted (durable in the spool) or refused after it was assembled."""

    round: int
    device: DeviceId
    digest: Digest
    size: int
    refused: str  # a Reason, or empty
    at: float


@dataclass(frozen=True)
class UpdateSettled:
    """The enclave admitted an accepted update, or refused it."""

    round: int
    device: DeviceId
    digest: Digest
    refused: str
    seconds: float
    at: float


@dataclass(frozen=True)
class RoundClosed:
    """Nothing more is accepted; written before the enclave is asked to release."""

    round: int
    at: float


@dataclass(frozen=True)
class RoundReleased:
    """The enclave's receipt, appended to the ledger if that still has `ledger_size` leaves."""

    round: int
    receipt: bytes = field(repr=False)
    receipt_digest: Digest
    previous_receipt: Digest
    model: Digest
    model_size: int
    state: Digest
    ledger_size: int
    new_root: Digest
    ready: bytes = field(repr=False)  # the signed ModelReady
    release_seconds: float
    at: float


@dataclass(frozen=True)
class RoundPublished:
    """Everybody who listens was told of the new model."""

    round: int
    at: float


@dataclass(frozen=True)
class RoundAbandoned:
    """The round ended without a model; its number is not used again."""

    round: int
    reason: str
    at: float


@dataclass(frozen=True)
class TelemetryStored:
    """A device's signed word on a round and on the model that it evaluated."""

    round: int
    device: DeviceId
    model: Digest
    examples: int
    correct: int
    loss_sum: float
    stages: tuple[tuple[str, float], ...]
    counters: tuple[tuple[str, int], ...]
    at: float


@dataclass(frozen=True)
class ReportStored:
    """A device's signed word on how it is; kept if it is newer than the one before."""

    device: DeviceId
    session: int
    number: int
    health: Health
    at: float


Write = (
    DeviceRegistered
    | RoundOpening
    | RoundOffered
    | UpdateStored
    | UpdateSettled
    | RoundClosed
    | RoundReleased
    | RoundPublished
    | RoundAbandoned
    | TelemetryStored
    | ReportStored
)

# --- effects -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Persist:
    """Write down; all of a batch goes into one transaction, before anything else of the batch."""

    write: Write


@dataclass(frozen=True)
class AskEnclave:
    """Send a request; its reply comes as EnclaveReplied, or EnclaveDown comes."""

    request: EnclaveRequest


@dataclass(frozen=True)
class StartTransfer:
    """Make room in the spool for an update of `size` bytes."""

    device: DeviceId
    transfer: Digest
    size: int


@dataclass(frozen=True)
class WriteChunk:
    """Write into the spool at `offset`."""

    device: DeviceId
    transfer: Digest
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class FinishTransfer:
    """Make the update durable under its name; answer with TransferFinished."""

    device: DeviceId
    transfer: Digest


@dataclass(frozen=True)
class DropUpdate:
    """Forget an update in the spool, whole or in parts."""

    device: DeviceId
    transfer: Digest


@dataclass(frozen=True)
class SendBlob:
    """Send chunks of a blob to one device, or to everybody (answered with FannedOut)."""

    device: DeviceId | None
    blob: Digest
    indices: tuple[int, ...]


@dataclass(frozen=True)
class RenewCertificate:
    """Give a device a certificate that lasts longer, if it is still one that was let in."""

    device: DeviceId


@dataclass(frozen=True)
class AnswerInclusion:
    """Prove to a device that its update was counted, or stay silent if it wasn't."""

    device: DeviceId
    round: int
    update: Digest


@dataclass(frozen=True)
class KeepBlobs:
    """Remove every blob from the store but these."""

    digests: frozenset[Digest]


@dataclass(frozen=True)
class Log:
    """A line for the log; `level` is "info", "warning" or "error"."""

    level: str
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


Effect = (
    Publish
    | Persist
    | AskEnclave
    | StartTransfer
    | WriteChunk
    | FinishTransfer
    | DropUpdate
    | SendBlob
    | RenewCertificate
    | AnswerInclusion
    | KeepBlobs
    | Log
)
