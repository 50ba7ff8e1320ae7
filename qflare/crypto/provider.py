"""The seam behind which a suite's KEM sits; signatures are pyca/cryptography's in every suite.

`keys` checks every suite and length before it calls a provider, so a provider sees bytes of the
right length only. What it still refuses (a public key that is no key, a ciphertext that does not
open) it raises as PeerFault.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from qflare.crypto.suites import FRODO640AES_MLDSA44, XWING_MLDSA65, Aead, Suite
from qflare.faults import LocalFault

Bytes: TypeAlias = bytes | bytearray | memoryview


class Sealer(Protocol):
    def seal(self, aead: Aead, plaintext: Bytes, info: Bytes) -> bytes:
        """Return encapsulated key ‖ ciphertext ‖ tag."""


class Opener(Protocol):
    def open(self, aead: Aead, sealed: Bytes, info: Bytes) -> bytes:
        """The inverse of Sealer.seal; raise PeerFault(CANNOT_OPEN)."""

    def public(self) -> bytes: ...


class Provider(Protocol):
    """Loads keys. A seed is the stored form of a private key, whatever it is made of."""

    def new_kem_seed(self, random: Callable[[int], bytes]) -> bytes: ...
    def opener(self, seed: bytes) -> Opener: ...
    def sealer(self, raw: bytes) -> Sealer: ...


def provider_of(suite: Suite) -> Provider:
    """Return the provider of `suite`, importing its library only now.

    Raises LocalFault, which says what to install, if the library isn't there or isn't the one.
    """
    if suite.name == FRODO640AES_MLDSA44.name:
        from qflare.crypto.frodo import Frodo

        return Frodo()
    if suite.name != XWING_MLDSA65.name:
        raise LocalFault(f"nothing provides suite {suite}; choose another suite")
    from qflare.crypto.pyca import XWing

    return XWing()
