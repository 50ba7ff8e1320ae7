"""The forms that a key's file has: plain, under a passphrase, of a token, of a TPM. Pure.

A plain key is the seed's bytes. A TPM's is a credential as systemd-creds(1) writes it, which
systemd's `LoadCredentialEncrypted=` opens too. The others are JSON.
"""

import base64
import binascii
import re
from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.typed import Typed, Unfit, decode

FILE_MAX: Final = 16 * 1024  # bytes of a key's file; a sealed one has 300 to 1,300
SEEDS: Final = (32, 64, 96)  # bytes of ML-DSA's, ML-KEM's, and ML-KEM's with X25519's
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# The first 16 bytes of a credential under a TPM and an approver's key (systemd, creds-util.h);
# those of one under a TPM alone are refused: nobody could approve a new state of the machine.
CREDENTIAL_ID: Final = bytes.fromhex("faf7eb9341e3412ca1a436f95a29362f")

_Base64 = Annotated[str, Meta(max_length=1024)]


class Kind(StrEnum):
    """What keeps a key. The value is what people write."""

    PLAIN = "plain"
    FILE = "file"
    TPM = "tpm"
    HSM = "hsm"


class ByPassphrase(Typed):
    """A seed under AES-256-GCM with a key by scrypt (RFC 7914) of a passphrase."""

    qflare_key: Literal["file"]
    name: str
    log_n: Annotated[int, Meta(ge=14, le=20)]  # scrypt's cost: 2^log_n KiB of memory
    salt: _Base64
    sealed: _Base64


class ByToken(Typed):
    """A seed under AES-256-GCM with a key that only a token can derive anew."""

    qflare_key: Literal["hsm"]
    name: str
    token: str  # its serial number, for messages: a token's backup has another
    label: str  # of the key on the token
    salt: _Base64
    sealed: _Base64


class ByTpm(Typed):
    """A credential of systemd's; its name is inside."""

    credential: bytes


class Plain(Typed):
    """A seed that anybody who reads the file has."""

    seed: bytes


Form = Plain | ByPassphrase | ByTpm | ByToken


def kind_of(form: Form) -> Kind:
    """What keeps the key."""
    match form:
        case Plain():
            return Kind.PLAIN
        case ByPassphrase():
            return Kind.FILE
        case ByTpm():
            return Kind.TPM
        case ByToken():
            return Kind.HSM


def parse_form(data: bytes) -> Form:
    """What a key's file says; raise LocalFault if it isn't one."""
    if len(data) in SEEDS:
        return Plain(data)
    try:
        if len(data) > FILE_MAX:
            raise ValueError
        if data.startswith(b"{"):
            if b'"hsm"' in data[:64]:
                return decode(ByToken, data)
            return decode(ByPassphrase, data)
        binary = unbase64(b"".join(data.split()).decode("ascii"))
        if not binary.startswith(CREDENTIAL_ID):
            raise ValueError
    except (Unfit, ValueError):
        raise LocalFault(
            f"that is no key: {len(data)} bytes, and neither a seed ({_lengths()} bytes) nor a "
            "sealed one; restore it from its backup"
        ) from None
    return ByTpm(data)


def check_name(name: str) -> str:
    """`name`, which a key's file has and is sealed with it; raise LocalFault if it can't be one."""
    if not NAME.fullmatch(name):
        raise LocalFault(
            f"{name[:80]!r} can't be a key's name: up to 64 letters, digits, '.', '_' and '-', the "
            "first a letter or digit; rename the file"
        )
    return name


def check_seed(secret: bytes) -> bytes:
    """`secret`; raise LocalFault if it has not the length of a seed."""
    if len(secret) not in SEEDS:
        raise LocalFault(f"{len(secret)} bytes are no seed, which has {_lengths()}")
    return secret


def context(kind: Kind, name: str) -> bytes:
    """What a seed is sealed with, so that no file passes for another key's."""
    return f"qflare/keys/{kind}/{name}".encode()


def base64_of(data: bytes) -> str:
    """As it stands in the files."""
    return base64.b64encode(data).decode()


def unbase64(text: str) -> bytes:
    """Raise ValueError for anything but the one spelling of some bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    if base64_of(data) != text:
        raise ValueError("not base64's one spelling")
    return data


def _lengths() -> str:
    return ", ".join(map(str, SEEDS[:-1])) + f" or {SEEDS[-1]}"
