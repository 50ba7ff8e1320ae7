"""What the machine needs of the platform it runs on."""

from typing import Protocol

from qflare.messages import Evidence
from qflare.names import Digest


class EvidenceProvider(Protocol):
    """A platform that measures this code, quotes it, and keeps its secrets.

    `seal` and `quote` may raise LocalFault when the platform fails. None of the providers has to
    keep a counter, so a host that brings back an older sealed state is not noticed by `unseal`.
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
