"""The messages by which updates, models and proofs are moved: offered, granted, asked for."""

from dataclasses import dataclass
from typing import ClassVar

from qflare.faults import Reason
from qflare.messages import BLOB_MAX, CHUNK_MAX, KIB, Message
from qflare.names import Digest, parse_round
from qflare.record import check

INDICES_MAX = 64  # chunks asked for or granted at a time


@dataclass(frozen=True)
class TransferOffer(Message):
    """Device to coordinator: I have this update for you; repeated until there is a receipt."""

    TAG: ClassVar[int] = 20
    CEILING: ClassVar[int] = 256

    transfer: Digest  # SHA-256 of the whole
    round: int
    size: int  # bytes
    chunk: int  # bytes of every chunk but the last

    def __post_init__(self) -> None:
        parse_round(self.round)
        check(0 < self.size <= BLOB_MAX, "transfer: bad size", Reason.TOO_LARGE)
        check(KIB <= self.chunk <= CHUNK_MAX, "transfer: bad chunk size")

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.size // self.chunk)


@dataclass(frozen=True)
class Grant(Message):
    """Coordinator to device: send these chunks now (credit)."""

    TAG: ClassVar[int] = 21
    CEILING: ClassVar[int] = 1 * KIB

    transfer: Digest
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_indices(self.indices)


@dataclass(frozen=True)
class AskBlob(Message):
    """Device to coordinator: send me these chunks of a content-addressed blob."""

    TAG: ClassVar[int] = 22
    CEILING: ClassVar[int] = 1 * KIB

    blob: Digest
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_indices(self.indices)


@dataclass(frozen=True)
class AskInclusion(Message):
    """Device to coordinator: prove that my update was counted in this round."""

    TAG: ClassVar[int] = 23
    CEILING: ClassVar[int] = 128

    round: int
    update: Digest


@dataclass(frozen=True)
class InclusionAnswer(Message):
    """Coordinator to device: the Merkle path from an update to its round receipt."""

    TAG: ClassVar[int] = 24
    CEILING: ClassVar[int] = 4 * KIB

    round: int
    update: Digest
    index: int
    size: int  # number of admitted updates
    proof: tuple[Digest, ...]


@dataclass(frozen=True)
class AskConsistency(Message):
    """Device to coordinator: prove that your ledger extends the one that I remember."""

    TAG: ClassVar[int] = 25
    CEILING: ClassVar[int] = 128

    old_size: int
    new_size: int


@dataclass(frozen=True)
class ConsistencyAnswer(Message):
    """Coordinator to device: the RFC 9162 consistency proof that was asked for."""

    TAG: ClassVar[int] = 26
    CEILING: ClassVar[int] = 4 * KIB

    old_size: int
    new_size: int
    proof: tuple[Digest, ...]


def _check_indices(indices: tuple[int, ...]) -> None:
    check(0 < len(indices) <= INDICES_MAX, f"between 1 and {INDICES_MAX} indices")
    check(all(0 <= i < 2**20 for i in indices), "index out of range")
