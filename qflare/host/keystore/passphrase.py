"""Keys under a passphrase: scrypt (RFC 7914), then AES-256-GCM."""

import secrets
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from qflare.faults import LocalFault
from qflare.host.keystore.form import ByPassphrase, Kind, base64_of, context, parse_form, unbase64
from qflare.host.typed import encode

LOG_N: Final = 17  # 128 MiB and 0.4 s for each guess
LEAST: Final = 12  # characters
_SALT: Final = 32
_NONCE: Final = bytes(12)  # each key by scrypt has a salt of its own, and is used once


class UnderPassphrase:
    """Seals and opens; asks for the passphrase when it is needed, and no earlier."""

    kind = Kind.FILE

    def __init__(self, ask: Callable[[], bytes], log_n: int = LOG_N) -> None:
        self._ask, self._log_n = ask, log_n

    def seal(self, name: str, secret: bytes) -> bytes:
        """The content of the key's file; raise LocalFault for a passphrase that is too short."""
        passphrase = self._ask()
        if len(passphrase.decode("utf-8", "replace")) < LEAST:
            raise LocalFault(
                f"the passphrase has fewer than {LEAST} characters; draw six words by dice"
            )
        salt = secrets.token_bytes(_SALT)
        key = _derive(passphrase, salt, self._log_n)
        sealed = AESGCM(key).encrypt(_NONCE, secret, context(Kind.FILE, name))
        return encode(ByPassphrase("file", name, self._log_n, base64_of(salt), base64_of(sealed)))

    def open(self, name: str, data: bytes) -> bytes:
        """The secret; raise LocalFault for another passphrase, another name, a damaged file."""
        form = parse_form(data)
        if not isinstance(form, ByPassphrase):
            raise LocalFault("that isn't a key under a passphrase")
        try:
            salt, sealed = unbase64(form.salt), unbase64(form.sealed)
            key = _derive(self._ask(), salt, form.log_n)
            return AESGCM(key).decrypt(_NONCE, sealed, context(Kind.FILE, name))
        except (InvalidTag, ValueError):
            if form.name != name:
                raise LocalFault(f"it was sealed as {form.name!r}; give it that name") from None
            raise LocalFault("wrong passphrase, or the file is damaged; try again") from None


def _derive(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**log_n, r=8, p=1).derive(passphrase)
