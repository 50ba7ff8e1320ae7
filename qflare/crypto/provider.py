"""The seam behind which a cryptographic library sits.

`keys` checks every suite and length before it calls a provider, so a provider sees bytes of the
right length only. What it still refuses (a public key that is no key, a signature that does not
verify, a ciphertext that does not open) it raises as PeerFault.
"""

from typing import Protocol, TypeAlias

from qflare.crypto.suites import Aead, Suite

Bytes: TypeAlias = bytes | bytearray | memoryview


class Verifier(Protocol):
    def verify(self, signature: bytes, message: Bytes, context: bytes) -> None:
        """Raise PeerFault(BAD_SIGNATURE) unless `signature` is good."""


class Signer(Protocol):
    def sign(self, message: Bytes, context: bytes) -> bytes: ...
    def public(self) -> bytes: ...


class Sealer(Protocol):
    def seal(self, aead: Aead, plaintext: Bytes, info: Bytes) -> bytes:
        """Return encapsulated key ‖ ciphertext ‖ tag."""


class Opener(Protocol):
    def open(self, aead: Aead, sealed: Bytes, info: Bytes) -> bytes:
        """The inverse of Sealer.seal; raise PeerFault(CANNOT_OPEN)."""

    def public(self) -> bytes: ...


class Provider(Protocol):
    """Loads keys. A seed is the stored form of a private key, whatever it is made of."""

    def new_signing_seed(self) -> bytes: ...
    def signer(self, seed: bytes) -> Signer: ...
    def verifier(self, raw: bytes) -> Verifier: ...
    def new_kem_seed(self) -> bytes: ...
    def opener(self, seed: bytes) -> Opener: ...
    def sealer(self, raw: bytes) -> Sealer: ...


def provider_of(suite: Suite) -> Provider:
    """Return the provider of `suite`, importing its library only now."""
    from qflare.crypto import pyca  # the one provider so far, and every suite's

    return pyca.provider(suite)
