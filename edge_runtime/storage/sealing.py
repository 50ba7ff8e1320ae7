"""The owner's key, and the keys under it by which a device's values are encrypted.

`storage.seal` in the state directory holds random data keys, each encrypted by the owner's key.
So changing the owner's key is quick, and destroying that one file makes all the rest unreadable.
The owner's key comes from systemd (`LoadCredentialEncrypted=storage.key:…`, sealed to the board's
TPM by `systemd-creds encrypt --with-key=tpm2`, see systemd-creds(1)) or from a file. It is 32
random bytes, or 64 hexadecimal digits of them; never a password.

The states of a device, each of which may be met after a power cut:
  no seal, no key       nothing is encrypted
  no seal, a key        a seal is made; `whole` is false until everything was written anew
  a seal, its key       `whole` or on the way there
  a seal, another key   with the previous one: changed to the new one, and all is written anew
  a seal, no key        refused: starting afresh would forget what others have seen
"""

import fcntl
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from edge_runtime.storage.vault import ID_BYTES, KEY_BYTES, Damaged, DataKey, Vault
from qflare.faults import LocalFault
from qflare.host.config import ConfigFault
from qflare.host.files import read_bounded, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode

SEAL: Final = "storage.seal"
CREDENTIAL: Final = "storage.key"
PREVIOUS_CREDENTIAL: Final = "storage.key.previous"
_SEAL_MAX: Final = 16 * 1024
_KEY_FILE_MAX: Final = 1024


@dataclass(frozen=True)
class OwnerKey:
    """The key under which data keys are encrypted; it is never written by us."""

    secret: bytes = field(repr=False)
    origin: str  # for messages

    @classmethod
    def read(cls, path: Path) -> Self:
        """32 bytes, or 64 hexadecimal digits; raise ConfigFault for anything else."""
        try:
            data = read_bounded(path, _KEY_FILE_MAX)
        except OSError as error:
            raise ConfigFault(
                f"{path}: the storage key: {error.strerror}; put it back, or see whether the TPM "
                "that it is sealed to is this board's"
            ) from None
        if len(data) != KEY_BYTES:
            try:
                data = bytes.fromhex(data.decode("ascii"))
            except ValueError:
                data = b""
        if len(data) != KEY_BYTES:
            raise ConfigFault(
                f"{path}: a storage key is 32 random bytes or 64 hexadecimal digits; make one by "
                f"`head -c 32 /dev/urandom > {path}` (only on a device that has none yet)"
            )
        return cls(data, str(path))

    @property
    def name(self) -> str:
        """Tells keys apart; says nothing about the secret."""
        return hmac.digest(self.secret, b"qflare/storage/name", "sha256")[:ID_BYTES].hex()

    def wrapping(self) -> DataKey:
        return DataKey(bytes.fromhex(self.name), self.secret)


@dataclass(frozen=True)
class OwnerKeys:
    """What was found: the key, and the one before it if it is to be replaced."""

    current: OwnerKey | None = None
    previous: OwnerKey | None = None


def find_keys(
    environ: Mapping[str, str], file: Path | None = None, previous: Path | None = None
) -> OwnerKeys:
    """Systemd's credentials first, then the configured files; raise ConfigFault for a bad one."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    given = Path(folder) if folder else None

    def find(credential: str, configured: Path | None) -> OwnerKey | None:
        if given is not None and (given / credential).exists():
            return OwnerKey.read(given / credential)
        return OwnerKey.read(configured) if configured is not None else None

    return OwnerKeys(find(CREDENTIAL, file), find(PREVIOUS_CREDENTIAL, previous))


def locked(state_dir: Path, environ: Mapping[str, str], file: Path | None) -> bool:
    """Is `state_dir` sealed, and no key at hand? So it is beside the units that are given it."""
    return (state_dir / SEAL).exists() and find_keys(environ, file).current is None


class _Wrapped(Typed):
    name: str
    secret: str  # hexadecimal, encrypted by the owner's key


class _Seal(Typed):
    """The content of `storage.seal`; data keys newest first."""

    format: int
    owner: str
    whole: bool
    keys: list[_Wrapped]
    others: str  # the root of `purpose_key`, encrypted by the owner's key


class Seal:
    """The data keys of one state directory."""

    def __init__(self, path: Path, content: _Seal, owner: OwnerKey) -> None:
        self._path, self._content, self._owner = path, content, owner

    @property
    def owner(self) -> str:
        """The name of the owner's key that it is under."""
        return self._content.owner

    @property
    def whole(self) -> bool:
        """Is everything in the directory under the newest key?"""
        return self._content.whole

    def vault(self) -> Vault:
        """Raises LocalFault if the seal was damaged."""
        keys = [
            DataKey(bytes.fromhex(key.name), _unwrap(self._owner, key.name, key.secret))
            for key in self._content.keys
        ]
        return Vault(keys, accept_plain=not self.whole)

    def finish(self) -> None:
        """Everything was written anew: forget the older keys."""
        newest = self._content.keys[:1]
        self.save(msgspec.structs.replace(self._content, keys=newest, whole=True))

    def purpose_key(self, purpose: str) -> bytes:
        """32 bytes for something beside the store; the same whatever key the owner changes to."""
        root = _unwrap(self._owner, "others", self._content.others)
        return hmac.digest(root, b"qflare/storage/" + purpose.encode(), "sha256")

    def save(self, content: _Seal) -> None:
        """Make it durable."""
        write_atomic(self._path, encode(content))
        self._content = content

    def change_owner(self, new: OwnerKey) -> "Seal":
        """Under another owner's key, with a fresh data key on top."""
        old = self._owner
        keys = [_wrap_key(new, DataKey.fresh())]
        for key in self._content.keys:
            secret = _unwrap(old, key.name, key.secret)
            keys.append(_wrap_key(new, DataKey(bytes.fromhex(key.name), secret)))
        root = _unwrap(old, "others", self._content.others)
        others = _wrap(new, "others", root)
        seal = Seal(self._path, self._content, new)
        seal.save(_Seal(1, new.name, False, keys, others))
        return seal


def open_seal(directory: Path, keys: OwnerKeys, used: bool) -> Seal | None:
    """The seal of a state directory, made or changed as the keys say; None without any key.

    `used`: there are values in the directory already. The daemon and the collector may both be the
    first. Raises ConfigFault when the key is missing or another one, OSError if the file system
    refuses.
    """
    with _by_turns(directory):
        return _open_seal(directory, keys, used)


def _open_seal(directory: Path, keys: OwnerKeys, used: bool) -> Seal | None:
    path = directory / SEAL
    if path.exists() or keys.current is None:
        seal = read_seal(directory, keys)
        if seal is None or keys.current is None or seal.owner == keys.current.name:
            return seal
        return seal.change_owner(keys.current)
    root = secrets.token_bytes(KEY_BYTES)
    fresh = [_wrap_key(keys.current, DataKey.fresh())]
    content = _Seal(1, keys.current.name, not used, fresh, _wrap(keys.current, "others", root))
    seal = Seal(path, content, keys.current)
    seal.save(content)
    return seal


@contextmanager
def _by_turns(directory: Path) -> Iterator[None]:
    """One process at a time; nobody holds it for longer than it takes to write the seal."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_seal(directory: Path, keys: OwnerKeys) -> Seal | None:
    """The seal as it is, under the current or the previous key; None if nothing is encrypted.

    Raises ConfigFault when the key is missing or another one, OSError as reading does.
    """
    path = directory / SEAL
    try:
        content = _parse(path, read_bounded(path, _SEAL_MAX))
    except FileNotFoundError:
        return None
    for key in (keys.current, keys.previous):
        if key is not None and key.name == content.owner:
            return Seal(path, content, key)
    if keys.current is None:
        raise ConfigFault(
            f"{directory} is encrypted and its key is not here; give it as the credential "
            f"{CREDENTIAL} or as storage.key_file. If the key is lost, so is what it protects: "
            "`qflare device forget` erases the device, to be enrolled again"
        )
    raise ConfigFault(
        f"{directory} is encrypted under another key than {keys.current.origin}; put the right one "
        f"there, or name it as storage.previous_key_file (credential {PREVIOUS_CREDENTIAL}) to "
        "change to the new one"
    )


def _parse(path: Path, data: bytes) -> _Seal:
    try:
        content = decode(_Seal, data)
        if content.format != 1 or not content.keys:
            raise ValueError
        for key in content.keys:
            bytes.fromhex(key.name), bytes.fromhex(key.secret)
        bytes.fromhex(content.others)
    except (Unfit, ValueError):
        raise LocalFault(
            f"{path} is damaged, or of a newer QFLARE; without it nothing here can be read. "
            "`qflare device forget` erases the device, to be enrolled again"
        ) from None
    return content


def _place(name: str) -> bytes:
    return b"qflare/storage/" + name.encode()


def _wrap(owner: OwnerKey, name: str, secret: bytes) -> str:
    return owner.wrapping().encrypt(secret, _place(name)).hex()


def _wrap_key(owner: OwnerKey, key: DataKey) -> _Wrapped:
    return _Wrapped(key.name.hex(), _wrap(owner, key.name.hex(), key.secret))


def _unwrap(owner: OwnerKey, name: str, wrapped: str) -> bytes:
    try:
        return owner.wrapping().decrypt(bytes.fromhex(wrapped), _place(name))
    except Damaged as fault:
        raise LocalFault(
            f"{SEAL}: {fault}; `qflare device forget` erases the device, to be enrolled again"
        ) from None
