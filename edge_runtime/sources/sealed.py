"""Samples encrypted where they lie: AES-256-GCM of cryptography, a random nonce a block."""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qflare.faults import PeerFault, Reason

# NIST SP 800-38D, 8.3: at most 2^32 random nonces a key; at a block a second that is 136 years.
NONCE: Final = 12


class Sealer:
    """A `segment.Cipher` with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, data: bytes, place: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + self._aead.encrypt(nonce, data, place)

    def open(self, data: bytes, place: bytes) -> bytes:
        try:
            return self._aead.decrypt(data[:NONCE], data[NONCE:], place)
        except (InvalidTag, ValueError):
            raise PeerFault(
                Reason.CANNOT_OPEN, "it was changed, or sealed with another key"
            ) from None
