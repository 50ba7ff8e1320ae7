"""Everything that goes into the device's machine, and everything that comes out of it."""

from dataclasses import dataclass, field

from edge_runtime.acceptance import Scores
from edge_runtime.download import Piece
from edge_runtime.memory import Fate, JournalEntry, Memory, OutboxEntry, RoundStats
from qflare.effects import LinkDown as LinkDown
from qflare.effects import Publish
from qflare.effects import Received as Received
from qflare.effects import Tick as Tick
from qflare.messages import EnclaveClaims
from qflare.names import Digest
from qflare.policy import RoundPolicy
from qflare.report import Health

# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkUp:
    """Connected and subscribed. `max_payload` is what one message may carry, bytes."""

    max_payload: int


@dataclass(frozen=True)
class TrainingFinished:
    """The worker trained, compressed, sealed and signed; nothing of it is durable yet."""

    round: int
    claims: Digest
    update: bytes = field(repr=False)
    residual: bytes = field(repr=False)  # by edge_runtime.residual
    stats: RoundStats
    personal: bytes | None = field(default=None, repr=False)  # float32 LE; never leaves the device


@dataclass(frozen=True)
class TrainingFailed:
    """There is no update for this round. `stopped`: because we asked for it."""

    round: int
    claims: Digest
    reason: str
    stopped: bool = False


@dataclass(frozen=True)
class Evaluated:
    """A released model passed its self-test, ran on the local test part, and is in its slot.

    `before` is how the active model does on the same examples, if there is one. `counted`: the
    model's task has right answers to count.
    """

    model: Digest
    examples: int  # 0: there is no local data
    correct: int
    loss_sum: float
    seconds: float
    rss_kb: int
    before: Scores | None = None
    counted: bool = True

    @property
    def scores(self) -> Scores:
        return Scores(self.examples, self.correct, self.loss_sum)


@dataclass(frozen=True)
class EvaluationFailed:
    """A released model wasn't found to work here; the one before stays active.

    `verdict`: it is the model's fault, and it isn't to be tried again. Otherwise it will be.
    """

    model: Digest
    reason: str
    verdict: bool = False


@dataclass(frozen=True)
class SlotLost:
    """The slot of a model that was accepted is damaged, or couldn't be activated."""

    model: Digest
    reason: str


@dataclass(frozen=True)
class BlobLost:
    """A blob that we thought we had can't be read, or could not be written."""

    blob: Digest
    reason: str


@dataclass(frozen=True)
class Quiet:
    """From now on no chunk may move, for this reason; with an empty one they may again."""

    reason: str


@dataclass(frozen=True)
class Held:
    """Training is paused, for this reason, which the operator is told; empty: it may go on."""

    reason: str


@dataclass(frozen=True)
class Updating:
    """How updates of QFLARE stand, in words for the operator; empty: there is nothing to say."""

    says: str


@dataclass(frozen=True)
class Looked:
    """How the device is, for its next report."""

    health: Health


@dataclass(frozen=True)
class Stop:
    """The process is about to end, in good order."""


Event = (
    LinkUp
    | LinkDown
    | Received
    | TrainingFinished
    | TrainingFailed
    | Evaluated
    | EvaluationFailed
    | SlotLost
    | BlobLost
    | Tick
    | Quiet
    | Held
    | Updating
    | Looked
    | Stop
)

# --- effects, to be performed in order ---------------------------------------------------------


@dataclass(frozen=True)
class SaveManifest:
    """Make a verified manifest durable, together with the memory that knows it."""

    manifest: bytes = field(repr=False)
    memory: Memory


@dataclass(frozen=True)
class UseCertificate:
    """Keep a renewed certificate of this device, and show it from now on."""

    certificate: bytes = field(repr=False)  # DER


@dataclass(frozen=True)
class SaveMemory:
    """Make the memory durable."""

    memory: Memory


@dataclass(frozen=True)
class KeepVerification:
    """Put by how the last appraisal went, for people; nothing depends on it."""

    record: bytes = field(repr=False)


@dataclass(frozen=True)
class KeepPart:
    """Put by more of a blob's beginning; nobody knows yet whether it is right.

    What can't be kept is answered by BlobLost, as for StoreBlob.
    """

    blob: Digest
    piece: Piece
    size: int  # of the whole blob, bytes; 0 if that isn't known


@dataclass(frozen=True)
class StoreBlob:
    """Keep a blob whose digest was checked: `data`, behind `offset` bytes that were put by."""

    blob: Digest
    data: bytes = field(repr=False)
    offset: int = 0


@dataclass(frozen=True)
class KeepBlobs:
    """Remove every stored blob but these, and what was put by of others."""

    blobs: frozenset[Digest]


@dataclass(frozen=True)
class Commit:
    """In one transaction: the update, what training left here, the journal and the memory."""

    entry: OutboxEntry
    journal: JournalEntry
    residual: bytes = field(repr=False)
    memory: Memory
    personal: bytes | None = field(default=None, repr=False)  # None: the model has none


@dataclass(frozen=True)
class Settle:
    """Note what became of an update; unless it still waits, it leaves the outbox.

    `proofs` are the words that say so, by kind, for `qflare device audit`.
    """

    update: Digest
    fate: Fate
    stats: RoundStats
    proofs: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Train:
    """Train, compress, seal; answered by TrainingFinished or TrainingFailed."""

    claims: EnclaveClaims = field(repr=False)
    policy: RoundPolicy
    graph: Digest

    @property
    def round(self) -> int:
        return self.claims.round


@dataclass(frozen=True)
class StopTraining:
    """Stop the training of this round as soon as possible."""

    round: int


@dataclass(frozen=True)
class Evaluate:
    """Run a model on the local test part; answered by Evaluated or EvaluationFailed."""

    model: Digest
    graph: Digest


@dataclass(frozen=True)
class Activate:
    """Let the applications on the device use this model, whose slot is ready."""

    model: Digest
    round: int


@dataclass(frozen=True)
class Refuse:
    """Remember, through restarts, that this model isn't to become active; forget its slot."""

    model: Digest
    reason: str


@dataclass(frozen=True)
class Note:
    """A line for the log; nothing in it is a secret or an update's content."""

    level: str  # debug, info, warning, error
    event: str
    fields: tuple[tuple[str, str | int | float], ...] = ()


Effect = (
    Publish
    | SaveManifest
    | SaveMemory
    | KeepVerification
    | UseCertificate
    | KeepPart
    | StoreBlob
    | KeepBlobs
    | Commit
    | Settle
    | Train
    | StopTraining
    | Evaluate
    | Activate
    | Refuse
    | Note
)
