"""What every command that opens a key offers: where `[keys]` is, and who is asked."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.faults import LocalFault
from qflare.host.keystore.form import Kind

if TYPE_CHECKING:
    from qflare.host.keystore.settings import KeysSection
    from qflare.host.keystore.store import Sealer

CONFIG: Final = Path("/etc/qflare/keys.toml")
_ROOM: Final = "owner"  # QFLARE_OWNER__KEYS__STORE, and so on


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"TOML with [keys], such as coordinator.toml (default {CONFIG}, if it is there)",
    )
    for what in ("passphrase", "pin"):
        parser.add_argument(
            f"--{what}-fd", type=int, metavar="N", help=f"read the {what} from this descriptor"
        )


def add_new(parser: argparse.ArgumentParser) -> None:
    """Add those of commands that seal."""
    into = [str(kind) for kind in Kind if kind is not Kind.PLAIN]
    parser.add_argument("--to", choices=into, help="what keeps it (default: keys.store)")
    parser.add_argument(
        "--new-passphrase-fd", type=int, metavar="N", help="where that isn't the passphrase so far"
    )


def read(arguments: argparse.Namespace) -> "tuple[KeysSection | None, Callable[[Kind], Sealer]]":
    """The `[keys]` that was named, and what opens keys by it; raise ConfigFault."""
    return _read(arguments, "passphrase of the keys", arguments.passphrase_fd)


def read_new(arguments: argparse.Namespace) -> "Sealer":
    """What is to keep a key; raise LocalFault if that wasn't said."""
    given = arguments.new_passphrase_fd
    descriptor = arguments.passphrase_fd if given is None else given
    section, sealers = _read(arguments, "new passphrase", descriptor, new=True)
    store = arguments.to or (section.store if section else None)
    if store is None:
        raise LocalFault("what shall keep it? give --to file, tpm or hsm, or a [keys] table")
    return sealers(Kind(store))


def _read(
    arguments: argparse.Namespace, what: str, descriptor: int | None, *, new: bool = False
) -> "tuple[KeysSection | None, Callable[[Kind], Sealer]]":
    from qflare.host.config import load
    from qflare.host.keystore.asking import asker
    from qflare.host.keystore.settings import KeysFile, sealers

    file = arguments.config or (CONFIG if CONFIG.exists() else None)
    section = load(KeysFile, _ROOM, file, os.environ).value.keys
    file = section.passphrase_file if section else None
    ask = asker(what, file, descriptor, new=new)
    hsm = section.hsm if section else None
    pin = asker("PIN of the token", hsm.pin_file if hsm else None, arguments.pin_fd)
    return section, sealers(section, ask, pin)


def passphrase(arguments: argparse.Namespace, what: str) -> Callable[[], bytes]:
    """Asks for another passphrase, by the same option."""
    from qflare.host.keystore.asking import asker

    return asker(what, None, arguments.passphrase_fd)


def warn(text: str) -> None:
    """Say it beside the output."""
    print(f"qflare: {text}", file=sys.stderr)
