"""Keys under a token that speaks PKCS#11: a YubiHSM, a smart card, a network HSM, SoftHSM.

The token holds an HMAC-SHA256 key that can't leave it. For each file it makes 32 bytes of a fresh
salt and the key's name, and under these the seed is encrypted by AES-256-GCM. So a token needs
nothing but CKM_SHA256_HMAC; docs/adr/0016-keys-are-files.md says why.
"""

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qflare.faults import LocalFault
from qflare.host.keystore.form import ByToken, Kind, base64_of, context, parse_form, unbase64
from qflare.host.typed import encode

_SALT: Final = 32
_NONCE: Final = bytes(12)  # each key that the token makes has a salt of its own
_BITS: Final = 256


@dataclass(frozen=True)
class Abilities:
    """What a token can do for us."""

    keeps: bool  # HMAC-SHA256
    signs: bool  # ML-DSA by itself (PKCS#11 3.2)


class InToken:
    """Seals and opens by the token called `token`, with its key called `label`."""

    kind = Kind.HSM

    def __init__(self, module: Path, token: str, label: str, pin: Callable[[], bytes]) -> None:
        self._module, self._token, self._label, self._pin = module, token, label, pin

    def seal(self, name: str, secret: bytes) -> bytes:
        """The content of the key's file; makes the token's key if there is none of that label."""
        salt = secrets.token_bytes(_SALT)
        with self._session(rw=True) as session:
            try:
                token_key = self._find(session)
            except LookupError:
                token_key = self._make(session)
            key = _derive(token_key, salt, name)
            serial = session.token.serial.decode("ascii", "replace").strip("\0 ")
        sealed = AESGCM(key).encrypt(_NONCE, secret, context(Kind.HSM, name))
        return encode(ByToken("hsm", name, serial, self._label, base64_of(salt), base64_of(sealed)))

    def open(self, name: str, data: bytes) -> bytes:
        """The secret; raise LocalFault for another token, PIN, name, or a damaged file."""
        form = parse_form(data)
        if not isinstance(form, ByToken):
            raise LocalFault("that isn't a key of a token's")
        if form.name != name:
            raise LocalFault(f"it was sealed as {form.name!r}; give it that name")
        try:
            salt, sealed = unbase64(form.salt), unbase64(form.sealed)
            with self._session() as session:
                key = _derive(self._find(session), salt, name)
            return AESGCM(key).decrypt(_NONCE, sealed, context(Kind.HSM, name))
        except LookupError:
            raise LocalFault(
                f"the token {self._token!r} has no key {self._label!r}; the file was sealed by the "
                f"token with the serial number {form.token[:32]!r}"
            ) from None
        except (InvalidTag, ValueError):
            raise LocalFault(
                f"the token's key {self._label!r} doesn't open it: the file is damaged, or was "
                f"sealed by another token (serial number {form.token[:32]!r})"
            ) from None

    def abilities(self) -> Abilities:
        """What the token lists; no PIN is needed. Raises LocalFault."""
        with _explained(self._module):
            return abilities(self._slot().get_mechanisms())

    def _slot(self) -> Any:
        import pkcs11

        for slot in _library(self._module).get_slots(token_present=True):
            try:
                if slot.get_token().label.strip("\0 ") == self._token:
                    return slot
            except pkcs11.TokenNotRecognised:  # another one, not set up yet
                continue
        raise LocalFault(
            f"{self._module}: no token called {self._token!r}; plug it in, or correct [keys.hsm]"
        )

    @contextmanager
    def _session(self, *, rw: bool = False) -> Iterator[Any]:
        with _explained(self._module):
            slot = self._slot()
            if not abilities(slot.get_mechanisms()).keeps:
                raise LocalFault(f"the token {self._token!r} lacks CKM_SHA256_HMAC; use another")
            try:
                pin = self._pin().decode()
            except UnicodeDecodeError:
                raise LocalFault("the PIN is not text") from None
            with slot.get_token().open(user_pin=pin, rw=rw) as session:
                yield session

    def _find(self, session: Any) -> Any:
        from pkcs11 import Attribute, KeyType, ObjectClass

        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self._label}
        found = list(session.get_objects(wanted))
        if not found:
            raise LookupError
        key = found[0]
        if len(found) > 1 or key.key_type not in (KeyType.SHA256_HMAC, KeyType.GENERIC_SECRET):
            raise LocalFault(
                f"the token {self._token!r} has {len(found)} keys called {self._label!r}, or none "
                "for HMAC-SHA256; name one in [keys.hsm]"
            )
        if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
            raise LocalFault(
                f"the token's key {self._label!r} can be read out; have the token make another one"
            )
        return key

    def _make(self, session: Any) -> Any:
        from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag

        return session.generate_key(
            KeyType.SHA256_HMAC,
            _BITS,
            label=self._label,
            store=True,
            capabilities=MechanismFlag.SIGN,
            mechanism=Mechanism.GENERIC_SECRET_KEY_GEN,
            template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
        )


def abilities(mechanisms: Collection[int]) -> Abilities:
    """By the list of a token's mechanisms. Pure."""
    from pkcs11 import Mechanism

    return Abilities(Mechanism.SHA256_HMAC in mechanisms, Mechanism.ML_DSA in mechanisms)


def _derive(key: Any, salt: bytes, name: str) -> bytes:
    from pkcs11 import Mechanism

    made: bytes = key.sign(salt + context(Kind.HSM, name), mechanism=Mechanism.SHA256_HMAC)
    if len(made) != 32:
        raise LocalFault(f"the token made {len(made)} bytes of HMAC-SHA256; use another one")
    return made


def _library(module: Path) -> Any:
    from pkcs11 import lib

    if not module.exists():
        raise LocalFault(f"{module}: no such PKCS#11 module; install it, or correct [keys.hsm]")
    return lib(str(module))


@contextmanager
def _explained(module: Path) -> Iterator[None]:
    """Say in words what PKCS#11 says in numbers."""
    try:
        import pkcs11
    except ModuleNotFoundError:
        raise LocalFault("keys in a token want: pip install 'qflare[hsm]'") from None
    try:
        yield
    except (pkcs11.PinIncorrect, pkcs11.PinLenRange, pkcs11.PinInvalid):
        raise LocalFault(
            "the token's PIN is wrong; few attempts are left before it locks"
        ) from None
    except pkcs11.PinLocked:
        raise LocalFault(
            "the token's PIN is locked; its security officer can set it anew"
        ) from None
    except pkcs11.PKCS11Error as error:
        what = f"{type(error).__name__} {error}".strip()
        raise LocalFault(f"{module}: the token said {what}; see that it is plugged in") from None
