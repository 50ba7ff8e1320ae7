"""A session that someone who listens on the wires can't read. Pure but for randomness.

The device's hello carries a KEM key of its own (X25519 and ML-KEM-768, as everywhere in QFLARE) and
fresh bytes. The laptop seals 32 random bytes to that key, bound to the very hello; from these,
HKDF gives a key for each direction, and every message goes under ChaCha20-Poly1305 (which every
board does fast) with its number as the nonce. Whoever only listens learns lengths and times. Who
can change what passes could put a key of his own into the hello; that shows in the words that a
person compares on both sides, and in nothing else.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge_runtime.provision.dialogue import Begin
from qflare.crypto.keys import KemPrivateKey, KemPublicKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import Digest

_INFO = b"qflare/1/provision\0"
_SECRET = 32


class Session:
    """One end of a session: `seal` what is sent, `open` what is received, in order."""

    def __init__(self, secret: bytes, hello: bytes, *, from_device: bool) -> None:
        up, down = (_key(secret, hello, direction) for direction in (b"up", b"down"))
        mine, theirs = (up, down) if from_device else (down, up)
        self._sealer, self._opener = ChaCha20Poly1305(mine), ChaCha20Poly1305(theirs)
        self._sent = self._received = 0

    def seal(self, message: bytes) -> bytes:
        """The message under its number; 16 bytes longer."""
        if self._sent >= 2**32:
            raise LocalFault("a session has no more numbers; begin a new one")
        sealed = self._sealer.encrypt(self._sent.to_bytes(12, "big"), message, None)
        self._sent += 1
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """The inverse; PeerFault(CANNOT_OPEN) if it isn't the next message of this session."""
        try:
            message = self._opener.decrypt(self._received.to_bytes(12, "big"), sealed, None)
        except (InvalidTag, ValueError):
            raise PeerFault(Reason.CANNOT_OPEN, "not the next message of this session") from None
        self._received += 1
        return message


def begin(key: bytes, hello: bytes) -> tuple[Begin, Session]:
    """Laptop: a session with the holder of `key`, who said `hello` (its bytes)."""
    secret = secrets.token_bytes(_SECRET)
    sealed = KemPublicKey.parse(DEFAULT, key).seal(secret, _info(hello))
    return Begin(sealed), Session(secret, hello, from_device=False)


def accept(message: Begin, key: KemPrivateKey, hello: bytes) -> Session:
    """Device: the session that the laptop began; PeerFault if it isn't about this hello."""
    secret = key.open(message.sealed, _info(hello))
    if len(secret) != _SECRET:
        raise PeerFault(Reason.MALFORMED, "a session's secret has 32 bytes")
    return Session(secret, hello, from_device=True)


def _info(hello: bytes) -> bytes:
    return _INFO + Digest.of(hello).raw


def _key(secret: bytes, hello: bytes, direction: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=_info(hello) + direction).derive(secret)
