"""The one interface: keys by name in a directory, and what seals and opens their files."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from qflare.faults import LocalFault
from qflare.host.files import read_bounded, sync_dir, write_at, write_atomic
from qflare.host.keystore.form import (
    FILE_MAX,
    Form,
    Kind,
    Plain,
    check_name,
    check_seed,
    kind_of,
    parse_form,
)


class Sealer(Protocol):
    """What keeps keys: a passphrase, a TPM, a token."""

    @property
    def kind(self) -> Kind: ...

    def seal(self, name: str, secret: bytes) -> bytes:
        """The content of the file of the key called `name`; raise LocalFault."""

    def open(self, name: str, data: bytes) -> bytes:
        """The secret in such a file; raise LocalFault."""


class AsIs:
    """Keeps nothing: the file is the seed."""

    kind = Kind.PLAIN

    def seal(self, name: str, secret: bytes) -> bytes:  # noqa: ARG002
        return secret

    def open(self, name: str, data: bytes) -> bytes:  # noqa: ARG002
        return data


class KeyStore:
    """Keys in a directory. `into` keeps new ones; each file says which of `openers` it wants."""

    def __init__(self, directory: Path, openers: Callable[[Kind], Sealer], into: Sealer) -> None:
        self.directory, self.into, self._openers = directory, into, openers

    def keep(self, name: str, secret: bytes) -> None:
        """Seal a seed (32, 64 or 96 bytes), see that it opens again, and make it durable.

        Raises LocalFault if there is a key of this name, or if it doesn't open again.
        """
        path = self.directory / check_name(name)
        with by_turns(self.directory):
            if path.exists():
                raise LocalFault(f"{path} is there already; choose another name")
            write_atomic(path, self.sealed(name, secret))

    def load(self, name: str) -> bytes:
        """The seed; raise LocalFault if it is gone, open to others, or doesn't open here."""
        path = self.directory / check_name(name)
        data = read_private(path)
        with said_of(path):
            return self.opened(name, data)

    def forget(self, name: str) -> None:
        """Destroy the key here. Backups, and what a flash disk has put aside, remain."""
        path = self.directory / check_name(name)
        with by_turns(self.directory):
            for copy in (path, aside(path, "fresh"), aside(path, "former")):
                destroy(copy)

    def sealed(self, name: str, secret: bytes) -> bytes:
        """The content of a new file, which was tried."""
        data = self.into.seal(name, check_seed(secret))
        if self.into.open(name, data) != secret:
            raise LocalFault(f"{self.into.kind}: it opens as something else; nothing was changed")
        return data

    def opened(self, name: str, data: bytes) -> bytes:
        """The seed in a file's content."""
        return check_seed(self._openers(kind_of(parse_form(data))).open(name, data))


def read_private(path: Path) -> bytes:
    """The content of a file with a secret; raise LocalFault if it is gone or others may read it.

    systemd's credentials lie in a directory that is closed to others (systemd.exec(5)), so the
    mode of those files says nothing.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = read_bounded(path, FILE_MAX)
    except FileNotFoundError:
        raise LocalFault(f"{path} is gone; restore it from its backup") from None
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; correct its name or mode") from None
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if mode & 0o077 and not (credentials and path.parent == Path(credentials)):
        raise LocalFault(f"{path} can be read by others; run: chmod 600 {path}")
    return data


def read_form(path: Path) -> Form:
    """What the file of a key is, without opening it; raise LocalFault."""
    data = read_private(path)
    with said_of(path):
        return parse_form(data)


def aside(path: Path, what: str) -> Path:
    """Where a move of this key puts a file: "fresh" or "former"."""
    return path.with_name(f".{path.name}.{what}")


def is_plain(path: Path) -> bool:
    """Does the file hold the bare seed?"""
    return isinstance(read_form(path), Plain)


def destroy(path: Path) -> None:
    """Write over a file and remove it; one that is gone is no fault."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            write_at(descriptor, bytes(os.fstat(descriptor).st_size), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.unlink()
        sync_dir(path.parent)


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Name the file in a fault."""
    try:
        yield
    except LocalFault as fault:
        raise LocalFault(f"{path}: {fault}") from None


@contextmanager
def by_turns(directory: Path) -> Iterator[None]:
    """One process at a time changes the keys of a directory; raise LocalFault for the second."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LocalFault(f"{directory}: {error.strerror}; make it, or name another") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise LocalFault(f"another command changes keys in {directory}; wait for it") from None
    finally:
        os.close(descriptor)
