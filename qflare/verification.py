"""What a verifier remembers of its last appraisal: what was checked, by what, what failed. Pure.

It is for people (`qflare enclave explain`); nothing is ever decided by it.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from qflare.appraisal import Appraisal, AttestationResult
from qflare.faults import PeerFault
from qflare.messages import KIB, EnclaveClaims, Evidence
from qflare.names import Digest, FleetId
from qflare.policy import OwnerManifest
from qflare.record import Record

FILE: Final = "verification"  # in a device's state directory
_TEXT_MAX = 300  # characters of one finding


@dataclass(frozen=True)
class Verification(Record):
    """One appraisal, from its first step to its last or to the one that failed."""

    CEILING: ClassVar[int] = 16 * KIB

    at: int  # Unix seconds by the verifier's clock
    fleet: FleetId
    round: int
    epoch: int
    claims: Digest
    manifest: Digest  # by which it was appraised
    manifest_version: int
    tier_wanted: int
    provider: str
    passed: tuple[tuple[str, str], ...]  # steps in order, and what each found
    reason: str = ""  # of the refusal; empty: every step was passed
    detail: str = ""

    def same(self, other: "Verification | None") -> bool:
        """Is it the same but for the time?"""
        return other is not None and replace(other, at=self.at) == self

    @classmethod
    def run(
        cls, evidence: Evidence, claims: EnclaveClaims, manifest: OwnerManifest, now: int
    ) -> tuple[Self, AttestationResult | PeerFault]:
        """Appraise, and write down how it went."""
        steps = Appraisal(evidence, claims, manifest, max(now, manifest.issued))
        passed: list[tuple[str, str]] = []
        outcome: AttestationResult | PeerFault
        try:
            for step in steps.run():
                passed.append((step.step, step.found[:_TEXT_MAX]))
            outcome = steps.result
        except PeerFault as fault:
            outcome = fault
        failed = outcome if isinstance(outcome, PeerFault) else None
        record = cls(
            at=now,
            fleet=manifest.fleet,
            round=claims.round,
            epoch=claims.epoch,
            claims=claims.digest,
            manifest=manifest.digest,
            manifest_version=manifest.version,
            tier_wanted=manifest.appraisal.tier,
            provider=evidence.provider[:_TEXT_MAX],
            passed=tuple(passed),
        )
        return record.refused(failed) if failed else record, outcome

    def refused(self, fault: PeerFault) -> Self:
        """The same, with what it failed by."""
        return replace(self, reason=fault.reason.value, detail=fault.detail[:_TEXT_MAX])
