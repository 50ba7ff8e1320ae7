"""Every value on the disk is wrapped: with a checksum, or encrypted if the device has a key.

Flash memory loses bits, and SQLite has no checksums of its own. What is wrapped says when it isn't
what was written, and for which place it was written, so that no value can be put in another's.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from qflare.faults import LocalFault

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
ID_BYTES: Final = 8
_NONCE: Final = 12
_SUM: Final = 8
_PLAIN: Final = b"\x00"
_SEALED: Final = b"\x01"


class Damaged(LocalFault):
    """A stored value isn't what was written in that place."""

    def __init__(self, place: bytes, why: str) -> None:
        super().__init__(f"{place.decode('ascii', 'replace')[:40]}: {why}")


@dataclass(frozen=True)
class DataKey:
    """A key for AES-256-GCM, and the name by which values say that they are under it."""

    name: bytes  # ID_BYTES, chosen at random
    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> "DataKey":
        return cls(secrets.token_bytes(ID_BYTES), secrets.token_bytes(KEY_BYTES))

    @cached_property
    def _cipher(self) -> "AESGCM":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self.secret)

    def encrypt(self, data: bytes, place: bytes) -> bytes:
        # Random nonces: NIST SP 800-38D allows 2^32 of them with a key; a device that writes ten
        # values a minute needs 800 years for that.
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, data, place)

    def decrypt(self, data: bytes, place: bytes) -> bytes:
        """Raise Damaged unless it was encrypted by this key for this place."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], place)
        except (InvalidTag, ValueError):
            raise Damaged(place, "was not encrypted by this key, or is damaged") from None


class Vault:
    """Wraps and unwraps values. Without a key it only notices damage."""

    def __init__(self, keys: Sequence[DataKey] = (), accept_plain: bool = False) -> None:
        """Values are written under the first key and read under any of them.

        `accept_plain`: while a device is on its way from no key to one.
        """
        self._write = keys[0] if keys else None
        self._read = {key.name: key for key in keys}
        self._accept_plain = accept_plain or not keys

    @property
    def encrypts(self) -> bool:
        return self._write is not None

    def wrap(self, place: bytes, data: bytes) -> bytes:
        """The bytes for the disk. `place` has at most 64 bytes and is needed to read them again."""
        if self._write is None:
            return _PLAIN + _checksum(place, data) + data
        head = _SEALED + self._write.name
        return head + self._write.encrypt(data, place + head)

    def unwrap(self, place: bytes, data: bytes) -> bytes:
        """The value; raise Damaged for anything that `wrap` didn't make for this place."""
        kind, rest = data[:1], data[1:]
        if kind == _PLAIN:
            if not self._accept_plain:
                raise Damaged(place, "is not encrypted, and this device's values are")
            value = rest[_SUM:]
            if rest[:_SUM] != _checksum(place, value):
                raise Damaged(place, "is damaged")
            return value
        key = self._read.get(rest[:ID_BYTES]) if kind == _SEALED else None
        if key is None:
            raise Damaged(place, "is damaged, or was encrypted by a key that is not here")
        return key.decrypt(rest[ID_BYTES:], place + data[: 1 + ID_BYTES])


def _checksum(place: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_SUM, key=place).digest()
