"""What a device remembers from one round to the next, and through a power cut."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, Self

from qflare.merkle import EMPTY_ROOT
from qflare.messages import KIB, ZERO, Checkpoint, RoundReceipt
from qflare.names import Digest
from qflare.owners import Owners, Seen
from qflare.policy import OwnerManifest
from qflare.record import Record

FORMER_MANIFESTS = 8


_EMPTY_LEDGER = Checkpoint(0, EMPTY_ROOT)


@dataclass(frozen=True)
class LastReceipt(Record):
    """The newest round receipt that was verified, as far as later ones are held against it."""

    CEILING: ClassVar[int] = 512

    round: int
    step: int
    digest: Digest
    model: Digest
    state: Digest
    updates: Digest  # Merkle root of the admitted updates
    admitted: int

    @classmethod
    def of(cls, receipt: RoundReceipt) -> Self:
        return cls(
            receipt.round,
            receipt.step,
            receipt.digest,
            receipt.model,
            receipt.state,
            receipt.updates,
            receipt.admitted,
        )


@dataclass(frozen=True)
class Memory(Record):
    """Everything that stops a coordinator from telling this device two stories."""

    CEILING: ClassVar[int] = 4 * KIB

    manifest_version: int = 0  # 0: none was seen yet
    manifest: Digest = ZERO
    former_manifests: tuple[Digest, ...] = ()  # newest last; earlier receipts name them
    checkpoint: Checkpoint = _EMPTY_LEDGER
    receipt: LastReceipt | None = None
    answered_round: int = 0  # the last round that was answered, and with which claims
    answered_claims: Digest = ZERO
    active: Digest = ZERO  # the model that passed its check here, and the one before
    previous: Digest = ZERO
    owners_number: int = 0  # who spoke for the fleet last; ZERO: none was seen yet
    owners: Digest = ZERO

    @property
    def owners_seen(self) -> Seen | None:
        """Owners that this device never goes back behind."""
        return None if self.owners == ZERO else (self.owners_number, self.owners)

    def with_manifest(self, manifest: OwnerManifest, owners: Owners) -> Self:
        if manifest.digest == self.manifest:
            return self
        former = self.former_manifests
        if self.manifest != ZERO:
            former = (*former, self.manifest)[-FORMER_MANIFESTS:]
        return replace(
            self,
            manifest_version=manifest.version,
            manifest=manifest.digest,
            former_manifests=former,
            owners_number=owners.number,
            owners=owners.seen[1],
        )

    def with_checkpoint(self, checkpoint: Checkpoint) -> Self:
        return replace(self, checkpoint=checkpoint)

    def with_receipt(self, receipt: RoundReceipt, checkpoint: Checkpoint) -> Self:
        return replace(self, receipt=LastReceipt.of(receipt), checkpoint=checkpoint)

    def with_answer(self, round_: int, claims: Digest) -> Self:
        return replace(self, answered_round=round_, answered_claims=claims)

    def with_active(self, model: Digest) -> Self:
        """The other slot now holds what was active; the same model again changes nothing."""
        return self if model == self.active else replace(self, active=model, previous=self.active)


class Fate(StrEnum):
    """What became of an update that this device made."""

    WAITING = "waiting"  # in the outbox
    ACCEPTED = "accepted"
    REFUSED = "refused"
    OVERTAKEN = "overtaken"  # a later round was released before there was a receipt
    COUNTED = "counted"  # accepted, and proven to be in the round's aggregate


@dataclass(frozen=True)
class RoundStats(Record):
    """Seconds by stage and figures of one round; names are sorted."""

    CEILING: ClassVar[int] = 4 * KIB

    stages: tuple[tuple[str, float], ...] = ()
    counters: tuple[tuple[str, int], ...] = ()

    def with_stage(self, name: str, seconds: float) -> Self:
        stages = dict(self.stages) | {name: max(0.0, float(seconds))}
        return replace(self, stages=tuple(sorted(stages.items())))


@dataclass(frozen=True)
class JournalEntry:
    """One answered round."""

    round: int
    claims: Digest
    update: Digest
    fate: Fate
    stats: RoundStats


@dataclass(frozen=True)
class OutboxEntry:
    """A sealed update that the coordinator hasn't given a receipt for."""

    round: int
    update: Digest  # SHA-256 of `data`, its name everywhere
    chunk: int  # bytes; stays the same for the whole transfer, restarts included
    data: bytes
