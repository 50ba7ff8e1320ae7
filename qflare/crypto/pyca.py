"""The provider that stands on pyca/cryptography: ML-DSA (FIPS 204) and HPKE (RFC 9180).

HPKE runs in base mode with one message per encapsulation. Its KEM 0x647a joins ML-KEM-768
(FIPS 203) and X25519 as draft-ietf-hpke-pq does, the construction known as X-Wing. The library
keeps a private KEM key as its two components; a seed here is the 64 bytes of ML-KEM (d ‖ z), then
the 32 of X25519, and a public key is 1,184 bytes of ML-KEM, then 32 of X25519.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem, x25519

from qflare.crypto.provider import Bytes
from qflare.crypto.suites import Aead, Suite
from qflare.faults import PeerFault, Reason

PrivateKey: TypeAlias = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey
PublicKey: TypeAlias = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey

ML_DSA: dict[str, tuple[type[PrivateKey], type[PublicKey]]] = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
}

_MLKEM_SEED = 64
_MLKEM_PUBLIC = 1184

_HPKE = {
    aead: hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, kind)
    for aead, kind in (
        (Aead.AES_256_GCM, hpke.AEAD.AES_256_GCM),
        (Aead.CHACHA20_POLY1305, hpke.AEAD.CHACHA20_POLY1305),
    )
}


@dataclass(frozen=True, slots=True, repr=False)
class _Sealer:
    key: hpke.MLKEM768X25519PublicKey

    def seal(self, aead: Aead, plaintext: Bytes, info: Bytes) -> bytes:
        try:
            return _HPKE[aead].encrypt(plaintext, self.key, info)
        except ValueError:  # an X25519 point of small order, which gives a shared key of zeros
            raise PeerFault(
                Reason.BAD_VALUE, "a public key that nothing can be sealed to"
            ) from None


@dataclass(frozen=True, slots=True, repr=False)
class _Opener:
    mlkem_key: mlkem.MLKEM768PrivateKey
    x25519_key: x25519.X25519PrivateKey

    def open(self, aead: Aead, sealed: Bytes, info: Bytes) -> bytes:
        key = hpke.MLKEM768X25519PrivateKey(self.mlkem_key, self.x25519_key)
        try:
            return _HPKE[aead].decrypt(sealed, key, info)
        except (InvalidTag, ValueError):
            raise PeerFault(Reason.CANNOT_OPEN, "other key, other binding, or damaged") from None

    def public(self) -> bytes:
        return (
            self.mlkem_key.public_key().public_bytes_raw()
            + self.x25519_key.public_key().public_bytes_raw()
        )


class XWing:
    """The provider of X-Wing."""

    def new_kem_seed(self, random: Callable[[int], bytes]) -> bytes:
        return random(_MLKEM_SEED + 32)

    def opener(self, seed: bytes) -> _Opener:
        return _Opener(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(seed[:_MLKEM_SEED]),
            x25519.X25519PrivateKey.from_private_bytes(seed[_MLKEM_SEED:]),
        )

    def sealer(self, raw: bytes) -> _Sealer:
        try:
            return _Sealer(
                hpke.MLKEM768X25519PublicKey(
                    mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC]),
                    x25519.X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC:]),
                )
            )
        except ValueError:  # ML-KEM's modulus check (FIPS 203, section 7.2)
            raise PeerFault(Reason.MALFORMED, "no ML-KEM-768 public key") from None


def signing_key(suite: Suite, seed: bytes) -> PrivateKey:
    """Return the library's own private key."""
    return ML_DSA[suite.signature][0].from_seed_bytes(seed)


def verify_key(suite: Suite, raw: bytes) -> PublicKey:
    """Return the library's own public key; any bytes of the right length are one."""
    return ML_DSA[suite.signature][1].from_public_bytes(raw)
