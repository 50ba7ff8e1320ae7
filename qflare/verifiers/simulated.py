"""`insecure_simulated`: anybody can make it, and it proves nothing."""

from dataclasses import dataclass
from typing import ClassVar, Final

from qflare.messages import Evidence
from qflare.names import Digest
from qflare.record import Record
from qflare.verifiers.facts import Facts, Tier

INSECURE_SIMULATED: Final = "insecure_simulated"


@dataclass(frozen=True)
class SimulatedReport(Record):
    """The body of simulated evidence."""

    CEILING: ClassVar[int] = 256

    measurement: Digest
    report_data: bytes


def verify(evidence: Evidence) -> Facts:
    """Take it at its word; raise PeerFault for what is none."""
    report = SimulatedReport.parse(evidence.body)
    return Facts(Tier.SIMULATED, report.report_data, report.measurement)
