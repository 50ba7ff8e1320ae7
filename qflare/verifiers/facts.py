"""What genuine evidence says, before anything is compared with what the owner wants."""

from dataclasses import dataclass
from enum import IntEnum

from qflare.faults import PeerFault, Reason
from qflare.names import Digest

REPORT_DATA = 64  # bytes that an attester puts into its evidence
UP_TO_DATE = "UpToDate"


class Tier(IntEnum):
    """How much evidence is worth; ordered."""

    SIMULATED = 0
    PROCESS = 1
    TPM = 2
    HARDWARE = 3


@dataclass(frozen=True)
class Facts:
    """What a verifier learned of an attester whose evidence is genuine."""

    tier: Tier
    report_data: bytes  # REPORT_DATA bytes
    measurement: Digest  # of the code that runs
    registers: tuple[tuple[str, bytes], ...] = ()  # what `measurement` is made of, for people
    signer: Digest | None = None  # of the code (SGX, SEV-SNP), or the platform's key (process, TPM)
    product: int = 0  # number that the signer gave the code
    svn: int = 0  # security version number that the signer gave the code
    debug: bool = False  # its memory can be read by its host
    tcb_status: str = UP_TO_DATE  # of the platform, in its vendor's words
    advisories: tuple[str, ...] = ()  # the vendor's security advisories that hold for the platform
    tcb_evaluation: int = 0  # number of the vendor's list by which the platform was judged
    layers: tuple[str, ...] = ()  # protections of a process that its kernel gave
    expires: int = 0  # Unix seconds at which the first of its endorsements ends; 0: never


def refused(detail: str) -> PeerFault:
    """The fault by which evidence is refused."""
    return PeerFault(Reason.EVIDENCE_REFUSED, detail)
