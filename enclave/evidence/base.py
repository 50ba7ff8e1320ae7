"""What the machine needs of the platform it runs on."""

from typing import Protocol

from qflare.messages import Evidence
from qflare.names import Digest


class EvidenceProvider(Protocol):
    """A platform that measures this code, quotes it, and keeps its secrets.

    `seal` and `quote` may raise LocalFault when the platform fails. A host can bring back an older
    sealed state, and `unseal` doesn't notice unless the platform has a counter. Only then (or where
    nothing is promised) may a class say `keeps_rounds = True`: the key of an open round is then
    sealed too, and the round survives a restart. Otherwise it would open a round's updates twice,
    for two aggregates that differ by one of them.
    """

    @property
    def name(self) -> str:
        """The provider's name in evidence and reference values."""

    @property
    def measurement(self) -> Digest:
        """What this platform measured of the code that runs now."""

    def quote(self, report_data: bytes) -> Evidence:
        """Evidence that this code, measured, said these 64 bytes."""

    def seal(self, secret: bytes) -> bytes:
        """Encrypt so that only this code on this platform opens it again.

        No bytes: this platform keeps no secrets, and after a restart nothing is left to unseal.
        """

    def unseal(self, sealed: bytes) -> bytes:
        """The inverse of `seal`; raise LocalFault for what this platform didn't seal."""
