"""Sealing by a key that a platform keeps for this code."""

from secrets import token_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qflare.faults import LocalFault
from qflare.names import Digest

_NONCE = 12
_SEALED_MAX = 2**31 - 1  # the library's limit for one message


class Sealing:
    """`seal` and `unseal` of an EvidenceProvider, by AES-256-GCM."""

    def __init__(self, measurement: Digest, key: bytes) -> None:
        self.measurement = measurement
        self._aead = AESGCM(key)
        self._label = b"qflare/1/enclave-state\0" + measurement.raw

    def seal(self, secret: bytes) -> bytes:
        if len(secret) > _SEALED_MAX:
            raise LocalFault("the state is larger than 2 GiB; use a smaller model")
        nonce = token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, secret, self._label)

    def unseal(self, sealed: bytes) -> bytes:
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._label)
        except (InvalidTag, ValueError):
            raise LocalFault(
                "the sealed state was written by other code or on another platform; put that back, "
                "or move the state away and let the coordinator present its last receipt"
            ) from None
