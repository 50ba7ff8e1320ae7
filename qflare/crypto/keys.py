"""Typed keys, signatures and ciphertexts: each carries its suite, none is plain `bytes`.

Suite and exact length are checked before a library sees the bytes. A verify function raises and
returns nothing. Private keys do not show themselves and are not pickled; the one way to store one
is `to_seed`, which says what it gives away.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, Self, final

from cryptography.exceptions import InvalidSignature

from qflare.crypto import pyca
from qflare.crypto.provider import Bytes, Opener, Sealer, provider_of
from qflare.crypto.suites import Aead, Suite, parse_aead, require_same
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import Digest

CONTEXT_PREFIX = "qflare/1/"
_CONTEXT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def _context(name: str) -> bytes:
    if not _CONTEXT.fullmatch(name):
        raise LocalFault(f"signature context {name[:80]!r}: want the bare name of a message")
    return (CONTEXT_PREFIX + name).encode()


def _exactly(what: str, suite: Suite, raw: bytes, length: int) -> None:
    if len(raw) != length:
        raise PeerFault(Reason.MALFORMED, f"{what} of {suite}: {len(raw)} bytes, want {length}")


@final
@dataclass(frozen=True, slots=True)
class Signature:
    """A signature of its suite's exact length; nothing is said yet about its truth."""

    suite: Suite
    raw: bytes

    @classmethod
    def parse(cls, suite: Suite, raw: bytes) -> Self:
        """Raise PeerFault(MALFORMED) unless `raw` has the suite's length (ML-DSA-65: 3,309)."""
        _exactly("signature", suite, raw, suite.signature_length)
        return cls(suite, bytes(raw))


class _Secret:
    """A private key: no repr, no pickle, no copy, no comparison by value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, secret>"

    def __reduce__(self) -> NoReturn:
        raise LocalFault(f"a {type(self).__name__} is not pickled or copied; store its to_seed()")


@dataclass(frozen=True, slots=True, repr=False)
class _Public:
    """A public key: equal and hashed by suite and bytes."""

    suite: Suite
    raw: bytes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.suite} {self.fingerprint.short}>"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.suite, self.raw)

    @property
    def fingerprint(self) -> Digest:
        """SHA-256 over kind, suite and key, for people and for pinning."""
        label = f"{CONTEXT_PREFIX}{type(self).__name__}\0{self.suite.name}\0"
        return Digest.of(label.encode(), self.raw)


@final
@dataclass(frozen=True, slots=True, repr=False)
class VerifyKey(_Public):
    """A public signature key (ML-DSA-65: 1,952 bytes)."""

    _key: pyca.PublicKey = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _exactly("verify key", self.suite, self.raw, self.suite.verify_key_length)
        object.__setattr__(self, "_key", pyca.verify_key(self.suite, self.raw))

    @classmethod
    def parse(cls, suite: Suite, raw: bytes) -> Self:
        """Raise PeerFault(MALFORMED) unless `raw` is a public key of `suite`."""
        return cls(suite, bytes(raw))

    def verify(self, context: str, message: Bytes, signature: Signature) -> None:
        """Verify `signature` over `message` under the context "qflare/1/<context>".

        Raises PeerFault(WRONG_SUITE) for another suite's signature, PeerFault(BAD_SIGNATURE) for
        a wrong one.
        """
        require_same(self.suite, signature.suite)
        _exactly("signature", self.suite, signature.raw, self.suite.signature_length)
        try:
            self._key.verify(signature.raw, message, _context(context))
        except InvalidSignature:
            raise PeerFault(Reason.BAD_SIGNATURE, CONTEXT_PREFIX + context) from None


@final
class SigningKey(_Secret):
    """A private signature key; signing is hedged, so two signatures of one message differ."""

    __slots__ = ("_key", "_seed", "_verify_key", "suite")

    def __init__(self, suite: Suite, seed: bytes) -> None:
        _own_seed("signing", seed, suite.signing_seed_length)
        self.suite = suite
        self._seed = bytes(seed)
        self._key = pyca.signing_key(suite, self._seed)
        self._verify_key = VerifyKey(suite, self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, suite: Suite) -> Self:
        """Make a new key from the operating system's randomness."""
        return cls(suite, secrets.token_bytes(suite.signing_seed_length))

    @classmethod
    def from_seed(cls, suite: Suite, seed: bytes) -> Self:
        """Restore what `to_seed` stored; raise LocalFault on another length (ML-DSA: 32)."""
        return cls(suite, seed)

    def to_seed(self) -> bytes:
        """Give the secret away, for storage."""
        return self._seed

    @property
    def verify_key(self) -> VerifyKey:
        return self._verify_key

    def sign(self, context: str, message: Bytes) -> Signature:
        """Sign `message` under the context "qflare/1/<context>"."""
        return Signature.parse(self.suite, self._key.sign(message, _context(context)))


@final
@dataclass(frozen=True, slots=True)
class Sealed:
    """A ciphertext of the right form; nothing is said yet about whether it opens.

    On the wire: one byte that names the AEAD, then the encapsulated key, ciphertext and tag.
    """

    suite: Suite
    aead: Aead
    body: memoryview

    @classmethod
    def parse(cls, suite: Suite, raw: Bytes) -> Self:
        """Raise PeerFault: MALFORMED if too short, WRONG_SUITE for an AEAD the suite has not."""
        view = memoryview(raw)
        if len(view) < suite.seal_overhead:
            raise PeerFault(
                Reason.MALFORMED, f"sealed: {len(view)} bytes, want {suite.seal_overhead} or more"
            )
        return cls(suite, parse_aead(suite, view[0]), view[1:])


@final
@dataclass(frozen=True, slots=True, repr=False)
class KemPublicKey(_Public):
    """A public key that can be sealed to (X-Wing: 1,184 bytes of ML-KEM-768, 32 of X25519;
    9,616 of FrodoKEM-640, 32 of X25519)."""

    _sealer: Sealer = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _exactly("KEM key", self.suite, self.raw, self.suite.kem_public_length)
        object.__setattr__(self, "_sealer", provider_of(self.suite).sealer(self.raw))

    @classmethod
    def parse(cls, suite: Suite, raw: bytes) -> Self:
        """Raise PeerFault(MALFORMED) unless `raw` is a public key of `suite`."""
        return cls(suite, bytes(raw))

    def seal(self, plaintext: Bytes, info: Bytes, *, aead: Aead = Aead.AES_256_GCM) -> bytes:
        """Seal `plaintext` so that it opens only with the same `info`.

        The result is `suite.seal_overhead` bytes longer (X-Wing: 1 + 1,120 + 16 = 1,137). Each
        call encapsulates anew, so every AEAD key is used once. Raises PeerFault(BAD_VALUE) for a
        key whose X25519 part has small order.
        """
        if aead not in self.suite.aeads:
            raise LocalFault(f"{self.suite} does not offer {aead.name}; choose from suite.aeads")
        return bytes([aead]) + self._sealer.seal(aead, plaintext, info)


@final
class KemPrivateKey(_Secret):
    """The private half of a KemPublicKey."""

    __slots__ = ("_opener", "_public", "_seed", "suite")

    def __init__(self, suite: Suite, seed: bytes) -> None:
        _own_seed("KEM", seed, suite.kem_seed_length)
        self.suite = suite
        self._seed = bytes(seed)
        self._opener: Opener = provider_of(suite).opener(self._seed)
        self._public = KemPublicKey(suite, self._opener.public())

    @classmethod
    def generate(cls, suite: Suite, random: Callable[[int], bytes] = secrets.token_bytes) -> Self:
        """Make a new key; FrodoKEM's half is always of the operating system's randomness."""
        return cls(suite, provider_of(suite).new_kem_seed(random))

    @classmethod
    def from_seed(cls, suite: Suite, seed: bytes) -> Self:
        """Restore what `to_seed` stored; raise LocalFault on another length (X-Wing: 64 + 32).

        FrodoKEM's private key has no seed: what is stored is the key (19,888 + 32).
        """
        return cls(suite, seed)

    def to_seed(self) -> bytes:
        """Give the secret away, for storage."""
        return self._seed

    @property
    def public(self) -> KemPublicKey:
        return self._public

    def open(self, sealed: Bytes, info: Bytes) -> bytes:
        """Return what was sealed to this key with this `info`.

        Raises PeerFault: MALFORMED if too short, WRONG_SUITE for an unknown AEAD, CANNOT_OPEN for
        another key, another `info` or a damaged byte (which of them can't be told).
        """
        parsed = Sealed.parse(self.suite, sealed)
        return self._opener.open(parsed.aead, parsed.body, info)


def _own_seed(kind: str, seed: bytes, length: int) -> None:
    if len(seed) != length:
        raise LocalFault(f"stored {kind} seed has {len(seed)} bytes, want {length}; restore it")
