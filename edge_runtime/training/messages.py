"""What a daemon and its training process say to each other: one class, one tag, one ceiling each.

A frame on their socket is a length (4 bytes, big-endian) and that many bytes of one message. The
process is trusted with the samples and their key and with no other: the daemon seals and signs.
Its words are parsed as strictly as anybody's, as a crash may leave half of one.
"""

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final

from qflare.messages import BLOB_MAX, KIB, Message, parse_any
from qflare.names import DeviceId, Digest
from qflare.record import Record, check
from qflare.schedule import Schedule
from qflare.tallies import Tallies

HEAD: Final = struct.Struct(">I")
FRAME_MAX: Final = 2 * BLOB_MAX  # bytes; a daemon takes less, by the size of the model
WORDS_MAX: Final = 64 * KIB  # bytes of a message without arrays; tallies of 1,024 classes are 12 kB
REASON_MAX: Final = 2000  # characters
PROBLEMS_MAX: Final = 16  # that are told of one device's data
_TIMES: Final = ("compress", "train")  # stages that a training tells the seconds of


# --- from the daemon ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup(Message):
    """The first message: what the process may take; answered by Ready."""

    TAG: ClassVar[int] = 1
    CEILING: ClassVar[int] = KIB

    threads: int
    memory: int  # bytes of private memory (RLIMIT_DATA)
    nice: int

    def __post_init__(self) -> None:
        check(1 <= self.threads <= 64 and 0 < self.memory < 2**63, "setup: threads or memory")
        check(0 <= self.nice <= 19, "setup: nice")


@dataclass(frozen=True)
class Bench(Record):
    """Where the device's things are, and how much of the machine its training may take."""

    CEILING: ClassVar[int] = WORDS_MAX

    device: DeviceId
    blobs: str  # directory
    scratch: str  # directory for large intermediate results
    data: bytes  # the configuration's data section, JSON
    insecure_seed: int | None = None
    max_seconds: float = 0.0  # pacing.Pacer says what these two mean
    duty: float = 1.0
    samples_key: bytes | None = field(default=None, repr=False)  # where samples are sealed: of 32


@dataclass(frozen=True)
class TrainOrder(Message):
    """Train and compress; answered by Trained, Failed or Lost, and by Progress on the way."""

    TAG: ClassVar[int] = 2
    CEILING: ClassVar[int] = FRAME_MAX

    job: int
    bench: Bench
    graph: Digest
    model: Digest  # the weights to start from
    step: int
    schedule: Schedule
    codec: str
    clip_norm: float
    weight_cap: int
    residual: bytes | None = field(default=None, repr=False)  # by edge_runtime.residual
    personal: bytes | None = field(default=None, repr=False)  # float32 LE, of the last training


@dataclass(frozen=True)
class EvaluateOrder(Message):
    """Run a model on the local test part; answered by Evaluation, Failed or Lost."""

    TAG: ClassVar[int] = 3
    CEILING: ClassVar[int] = FRAME_MAX

    job: int
    bench: Bench
    graph: Digest
    model: Digest
    personal: bytes | None = field(default=None, repr=False)
    slots: str = ""  # the directory where it is staged if it works; empty: nowhere


class Verb(StrEnum):
    """What can be said about a job that runs."""

    STOP = "stop"
    HOLD = "hold"
    RESUME = "resume"


@dataclass(frozen=True)
class Control(Message):
    """Change a job; for one that has ended it means nothing."""

    TAG: ClassVar[int] = 4
    CEILING: ClassVar[int] = 64

    job: int
    verb: Verb


# --- from the training process -----------------------------------------------------------------


@dataclass(frozen=True)
class Ready(Message):
    """The limits are set but those that are noted, and what training needs is installed."""

    TAG: ClassVar[int] = 11
    CEILING: ClassVar[int] = WORDS_MAX

    notes: tuple[str, ...]  # what this machine doesn't allow
    lacks: str  # why nothing can be trained here; empty: it can


@dataclass(frozen=True)
class Progress(Message):
    """The job goes on: `steps` of this stage are done."""

    TAG: ClassVar[int] = 12
    CEILING: ClassVar[int] = 256

    job: int
    stage: str
    steps: int

    def __post_init__(self) -> None:
        check(len(self.stage) <= 40 and 0 <= self.steps < 2**63, "progress")


@dataclass(frozen=True)
class Trained(Message):
    """What training gave; nothing of it is durable, sealed or signed yet."""

    TAG: ClassVar[int] = 13
    CEILING: ClassVar[int] = FRAME_MAX

    job: int
    examples: int
    encoded: bytes = field(repr=False)  # by the policy's codec
    tallies: Tallies
    residual: bytes = field(repr=False)
    personal: bytes | None = field(repr=False)  # None: the model has none
    stages: tuple[tuple[str, float], ...]  # (name, seconds), sorted
    counters: tuple[tuple[str, int], ...]  # (name, count), sorted

    def __post_init__(self) -> None:
        check(0 <= self.examples < 2**53, "trained: examples")
        check(tuple(name for name, _ in self.stages) == _TIMES, "trained: stages")
        known = len(self.counters) <= 16 and all(len(name) <= 40 for name, _ in self.counters)
        check(known and all(0 <= n < 2**63 for _, n in self.counters), "trained: counters")


@dataclass(frozen=True)
class Failed(Message):
    """There is no result. `spent`: this process should not be given another job.

    `verdict`: it is the model's fault and will not change.
    """

    TAG: ClassVar[int] = 14
    CEILING: ClassVar[int] = WORDS_MAX

    job: int
    reason: str
    stopped: bool = False  # because it was asked for
    spent: bool = False
    verdict: bool = False


@dataclass(frozen=True)
class Evaluation(Message):
    """How a model did on the local test part."""

    TAG: ClassVar[int] = 15
    CEILING: ClassVar[int] = KIB

    job: int
    examples: int
    correct: int
    loss_sum: float
    seconds: float
    rss_kb: int
    before: tuple[int, int, float] | None = None  # examples, correct, loss of the active model
    counted: bool = True  # the model's task has right answers to count

    def __post_init__(self) -> None:
        check(0 <= self.correct <= self.examples < 2**53, "evaluation: counts")
        examples, correct, _ = self.before or (0, 0, 0.0)
        check(0 <= correct <= examples < 2**53, "evaluation: counts of the active model")
        check(0 <= self.rss_kb < 2**53, "evaluation: memory")


@dataclass(frozen=True)
class Lost(Message):
    """A blob is missing or damaged."""

    TAG: ClassVar[int] = 16
    CEILING: ClassVar[int] = WORDS_MAX

    job: int
    blob: Digest
    reason: str


@dataclass(frozen=True)
class DataFound(Message):
    """What a device's data is worth to its model, told whenever it was looked at anew."""

    TAG: ClassVar[int] = 17
    CEILING: ClassVar[int] = WORDS_MAX

    device: DeviceId
    train: int
    test: int
    left_out: tuple[tuple[str, int], ...]  # why, and how many examples
    problems: tuple[str, ...]  # what a person should do something about

    def __post_init__(self) -> None:
        counts = (self.train, self.test, *(many for _, many in self.left_out))
        check(all(0 <= many < 2**53 for many in counts), "data: counts")
        check(len(self.left_out) <= 64 and len(self.problems) <= PROBLEMS_MAX, "data: too many")
        words = (*self.problems, *(why for why, _ in self.left_out))
        check(all(len(text) <= REASON_MAX for text in words), "data: too long")


Order = TrainOrder | EvaluateOrder
Result = Trained | Failed | Evaluation | Lost
Report = Ready | Progress | DataFound | Result


def parse_order(data: bytes) -> Order | Control:
    """What the daemon said after Setup; raises PeerFault and nothing else."""
    said: Order | Control = parse_any(data, TrainOrder, EvaluateOrder, Control)
    return said


def parse_report(data: bytes) -> Report:
    """What the training process said; raises PeerFault and nothing else."""
    said: Report = parse_any(data, Ready, Progress, DataFound, Trained, Failed, Evaluation, Lost)
    return said
