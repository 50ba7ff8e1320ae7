"""Passphrases and PINs: from a file, a descriptor or the terminal; never from the command line."""

import getpass
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault
from qflare.host.keystore.store import read_private

_MOST: Final = 1024  # bytes


def asker(
    what: str, file: Path | None = None, descriptor: int | None = None, *, new: bool = False
) -> Callable[[], bytes]:
    """A function that gives the secret, and asks for it at most once.

    `what` is for the person ("passphrase"). A relative `file` among systemd's credentials is meant
    to be there. `new`: a person types it twice. It raises LocalFault when there is nobody to ask.
    """
    known: list[bytes] = []

    def ask() -> bytes:
        if not known:
            known.append(_read(what, file, descriptor, new))
        return known[0]

    return ask


def credential(path: Path) -> Path:
    """The credential of systemd's that a relative path means, if there is one; else the path."""
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    if given and not path.is_absolute() and (Path(given) / path.name).exists():
        return Path(given) / path.name
    return path


def _read(what: str, file: Path | None, descriptor: int | None, new: bool) -> bytes:
    if descriptor is not None:
        try:
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                secret = stream.read(_MOST + 1)
        except OSError as error:
            raise LocalFault(f"the {what}: descriptor {descriptor}: {error.strerror}") from None
    elif file is not None:
        secret = read_private(credential(file))
    elif sys.stdin is not None and sys.stdin.isatty():
        secret = _type(what, new)
    else:
        raise LocalFault(
            f"the {what} is wanted, and no terminal is there to ask at; name a file with it "
            "in [keys], or give a descriptor"
        )
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret or len(secret) > _MOST:
        raise LocalFault(f"the {what} is empty or longer than {_MOST} bytes")
    return secret


@cache
def _type(what: str, new: bool) -> bytes:
    """Once in a process's life: a daemon loads more than one key."""
    try:
        typed = getpass.getpass(f"{what}: ")
        if new and getpass.getpass(f"{what}, once more: ") != typed:
            raise LocalFault("that was another one; begin again")
    except EOFError:
        raise LocalFault(f"no {what} was typed") from None
    return typed.encode("utf-8", "surrogateescape")
