"""Every secret of an enrolment comes from one key file; the database holds none.

A ticket's secret and the broker passwords are HMAC-SHA256 of what they are for, by 32 random bytes
in `enrolment.key` (0600, beside the database). A stolen database so gives no ticket away, and
whoever restores one from a backup needs that file with it: another key would shut out every device
whose broker account it made.
"""

import base64
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from qflare import codec
from qflare.faults import LocalFault
from qflare.host.files import sync_dir, write_atomic
from qflare.host.keystore.store import read_private
from qflare.names import DeviceId, Digest

FILE = "enrolment.key"
_LENGTH = 32


class Keyring:
    """Derives; shows nothing of itself."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._life = secrets.token_bytes(_LENGTH)

    @classmethod
    def load(cls, state_dir: Path, *, new: bool) -> "Keyring":
        """Read the key file, or make it if `new` (nothing depends on an earlier one).

        Two processes may do so at once: one file wins, and both read that. Raises LocalFault if it
        is gone, if others can read it, or if it isn't a key.
        """
        path = state_dir / FILE
        if new and not path.exists():
            fresh = path.with_name(f".{FILE}.{secrets.token_hex(6)}")
            write_atomic(fresh, secrets.token_bytes(_LENGTH))
            with suppress(FileExistsError):
                os.link(fresh, path)
            fresh.unlink()
            sync_dir(state_dir)
        return cls(read_secret(path, _LENGTH))

    def token_secret(self, token: bytes) -> bytes:
        """32 bytes that a ticket carries, and never sends."""
        return self._derive("token secret", token)

    def token_password(self, token: bytes) -> str:
        """Of the ticket's broker account."""
        return _text(self._derive("token account", token))

    def device_password(self, token: bytes, name: DeviceId) -> str:
        """Of the broker account of the device that came by this ticket."""
        return _text(self._derive("device account", token, name.encode()))

    def nonce(self, token: bytes, request: Digest) -> bytes:
        """The challenge to a request: nothing is kept for it, and it is good for this process's
        life only.
        """
        return hmac.digest(self._life, token + request.raw, "sha256")

    def _derive(self, purpose: str, *parts: bytes) -> bytes:
        words = codec.encode([f"qflare/1/enrolment {purpose}", *parts])
        return hmac.digest(self._key, words, "sha256")


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def read_secret(path: Path, length: int) -> bytes:
    """The bytes of a key file that nobody else can read; raise LocalFault otherwise."""
    raw = read_private(path)
    if len(raw) != length:
        raise LocalFault(f"{path} has {len(raw)} bytes, and a key {length}; restore it")
    return raw
