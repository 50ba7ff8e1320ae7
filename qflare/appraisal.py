"""Appraisal (RATS, the verifier of RFC 9334): Evidence + reference values -> AttestationResult.

The same function runs on every device, before it seals a byte, and in an enclave that takes over
from an earlier one. Each provider's format is verified by one function below.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from qflare.faults import PeerFault, Reason
from qflare.messages import EnclaveClaims, Evidence
from qflare.names import Digest
from qflare.policy import OwnerManifest
from qflare.record import Record, check

INSECURE_SIMULATED = "insecure_simulated"


class Tier(IntEnum):
    """How much the evidence is worth; ordered."""

    SIMULATED = 0
    PROCESS = 1
    TPM = 2
    HARDWARE = 3


@dataclass(frozen=True)
class AttestationResult:
    """What a relying party learns from appraised evidence."""

    provider: str
    tier: Tier
    measurement: Digest


@dataclass(frozen=True)
class SimulatedReport(Record):
    """The evidence of `insecure_simulated`: anybody can make it, and it proves nothing."""

    CEILING: ClassVar[int] = 256

    measurement: Digest
    report_data: bytes


def report_data(claims: EnclaveClaims) -> bytes:
    """The 64 bytes by which evidence binds the enclave's claims."""
    return hashlib.sha512(b"qflare/1/report-data\0" + claims.to_bytes()).digest()


def appraise(
    evidence: Evidence, claims: EnclaveClaims, manifest: OwnerManifest
) -> AttestationResult:
    """Appraise `evidence` for `claims` by the owner's reference values.

    Raises PeerFault: EVIDENCE_REFUSED when it doesn't verify, doesn't bind these claims, has a
    measurement that the owner doesn't list, or is of a kind that the owner doesn't accept;
    WRONG_FLEET, WRONG_SUITE for claims of another fleet or suite.
    """
    check(claims.fleet == manifest.fleet, "claims of another fleet", Reason.WRONG_FLEET)
    check(claims.suite == manifest.suite, "claims of another suite", Reason.WRONG_SUITE)
    match evidence.provider:
        case "insecure_simulated":
            result = _appraise_simulated(evidence, claims, manifest)
        case other:
            raise _refused(f"no verifier for {other[:40]!r}")
    for reference in manifest.reference_values:
        if (reference.provider, reference.measurement) == (result.provider, result.measurement):
            return result
    raise _refused(f"measurement {result.measurement.short} is not a reference value")


def _appraise_simulated(
    evidence: Evidence, claims: EnclaveClaims, manifest: OwnerManifest
) -> AttestationResult:
    if not manifest.allow_insecure:
        raise _refused("simulated evidence, and the owner manifest doesn't allow it")
    report = SimulatedReport.parse(evidence.body)
    if report.report_data != report_data(claims):
        raise _refused("evidence for other claims")
    return AttestationResult(INSECURE_SIMULATED, Tier.SIMULATED, report.measurement)


def _refused(detail: str) -> PeerFault:
    return PeerFault(Reason.EVIDENCE_REFUSED, detail)
