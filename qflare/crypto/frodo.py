"""Suite frodo640aes-mldsa44: FrodoKEM-640-AES (salted) and X25519 in one KEM, then an AEAD.

No HPKE library takes a KEM from outside, so this is written here, and no primitive is. The shared
secrets are joined as by the universal combiner of draft-irtf-cfrg-hybrid-kems (KDF over both
secrets, both ciphertexts, both public keys, a label), which stays safe if either KEM does, whatever
the other binds. The KDF is HKDF-SHA256 (RFC 5869) with the empty salt; from its one output come
AEAD key and nonce, as in the key schedule of RFC 9180, with the AEAD's number and `info` bound:

    ikm = ss_frodo (16) ‖ ss_x25519 (32) ‖ ct_frodo ‖ ct_x25519 ‖ pk_frodo ‖ pk_x25519 ‖ LABEL
    key (32) ‖ nonce (12) = HKDF(salt = "", ikm, info = AEAD (1) ‖ info, 44)

A seed is FrodoKEM's private key (FrodoKEM's encoding: s ‖ public key ‖ Sᵀ ‖ hash), then X25519's.
ML-DSA-44 is pyca/cryptography's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qflare.crypto.liboqs import CIPHERTEXT, PUBLIC, SECRET, SHARED, frodo, library
from qflare.crypto.provider import Bytes
from qflare.crypto.suites import FRODO640AES_MLDSA44 as SUITE
from qflare.crypto.suites import Aead
from qflare.faults import PeerFault, Reason

LABEL = f"qflare/1/{SUITE.name}\0{SUITE.kem}".encode()
_CIPHERS: dict[Aead, type[AESGCM | ChaCha20Poly1305]] = {
    Aead.AES_256_GCM: AESGCM,
    Aead.CHACHA20_POLY1305: ChaCha20Poly1305,
}


def _keyed(aead: Aead, ikm: bytes, info: Bytes) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
    made = HKDF(SHA256(), 44, None, bytes([aead]) + info).derive(ikm + LABEL)
    return _CIPHERS[aead](made[:32]), made[32:]


@dataclass(frozen=True, slots=True, repr=False)
class _Sealer:
    raw: bytes

    def seal(self, aead: Aead, plaintext: Bytes, info: Bytes) -> bytes:
        with frodo() as kem:
            ct, ss = kem.encap_secret(self.raw[:PUBLIC])
        own, peer = (
            X25519PrivateKey.generate(),
            X25519PublicKey.from_public_bytes(self.raw[PUBLIC:]),
        )
        try:
            ss += own.exchange(peer)
        except ValueError:  # a point of small order, which gives a shared key of zeros
            raise PeerFault(Reason.BAD_VALUE, "a key that nothing can be sealed to") from None
        ct += own.public_key().public_bytes_raw()
        cipher, nonce = _keyed(aead, ss + ct + self.raw, info)
        return bytes(ct + cipher.encrypt(nonce, plaintext, None))


@dataclass(frozen=True, slots=True, repr=False)
class _Opener:
    secret: bytes
    x25519: X25519PrivateKey

    def open(self, aead: Aead, sealed: Bytes, info: Bytes) -> bytes:
        ct, rest = bytes(sealed[: CIPHERTEXT + 32]), sealed[CIPHERTEXT + 32 :]
        try:
            with frodo(self.secret) as kem:
                ss = kem.decap_secret(ct[:CIPHERTEXT])
            ss += self.x25519.exchange(X25519PublicKey.from_public_bytes(ct[CIPHERTEXT:]))
            cipher, nonce = _keyed(aead, ss + ct + self.public(), info)
            return cipher.decrypt(nonce, rest, None)
        except (InvalidTag, ValueError, RuntimeError):
            raise PeerFault(Reason.CANNOT_OPEN, "other key, other binding, or damaged") from None

    def public(self) -> bytes:
        return self.secret[SHARED : SHARED + PUBLIC] + self.x25519.public_key().public_bytes_raw()


class Frodo:
    """The provider; making it raises LocalFault where liboqs is missing or of another variant."""

    def __init__(self) -> None:
        library()

    def new_kem_seed(self, random: Callable[[int], bytes]) -> bytes:
        with frodo() as kem:
            kem.generate_keypair()
            return bytes(kem.export_secret_key() + random(32))

    def opener(self, seed: bytes) -> _Opener:
        return _Opener(seed[:SECRET], X25519PrivateKey.from_private_bytes(seed[SECRET:]))

    def sealer(self, raw: bytes) -> _Sealer:
        return _Sealer(raw)
