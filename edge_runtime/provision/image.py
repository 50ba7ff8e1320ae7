"""`qflare provision image`: what a card needs so that its board enrols at the first start. I/O.

The folder `qflare/` is read by qflare-provisiond, which must be in the image, and emptied then. The
network can be given to the operating system instead, in the file that its first start reads:

- cloudinit: `network-config` (Raspberry Pi OS since the end of 2025, Ubuntu). The other files of
  cloud-init stay as they are on the card: users, keys and host name are in them.
- custom: `custom.toml` (Raspberry Pi OS bookworm), which knows Wi-Fi only. It is read where
  cmdline.txt starts raspberrypi-sys-mods' firstboot, which removes it afterwards.
- folder: for every other system with NetworkManager or netplan, as Jetson Linux: `qflare/network`.

Sources: raspberrypi/rpi-imager, doc/os_customisation_formats.md; RPi-Distro/raspberrypi-sys-mods,
firstboot and init_config; cloud-init's documentation of its NoCloud source.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.provision import network, seeded
from edge_runtime.provision.dialogue import Network, Wifi
from qflare.faults import LocalFault, PeerFault
from qflare.host.boards import load
from qflare.host.files import read_bounded, write_atomic

if TYPE_CHECKING:
    from edge_runtime.provision.tickets import Taken

FORMATS: Final = ("cloudinit", "custom", "folder")
FOLDER: Final = "qflare"
_FIRSTBOOT: Final = b"init=/usr/lib/raspberrypi-sys-mods/firstboot"


@dataclass(frozen=True)
class Seed:
    """What the card carries; `ticket` and `owner` together."""

    ticket: bytes
    owner: bytes
    settings: str
    network: Network | None


def format_of(boot: Path, wanted: Network | None) -> str:
    """What the system on this card reads; OSError if the partition can't be read."""
    if any((boot / name).is_file() for name in ("meta-data", "user-data")):
        return "cloudinit"
    try:
        first = _FIRSTBOOT in read_bounded(boot / "cmdline.txt", 4096)
    except FileNotFoundError:
        first = False
    return "custom" if first and wanted and _wifi_only(wanted) else "folder"


def _wifi_only(wanted: Network) -> Wifi | None:
    return None if wanted.address or wanted.dns else wanted.wifi


def files(seed: Seed, form: str) -> dict[str, bytes]:
    """The card's files by their names below the boot partition; LocalFault for what can't be."""
    found = {
        f"{FOLDER}/{seeded.TICKET}": seed.ticket,
        f"{FOLDER}/{seeded.OWNER}": seed.owner,
    }
    if seed.settings:
        found[f"{FOLDER}/{seeded.SETTINGS}"] = seed.settings.encode()
    if seed.network is None:
        return found
    match form:
        case "cloudinit":
            tree = {"network": network.tree(seed.network)}
            found["network-config"] = json.dumps(tree, indent=2).encode() + b"\n"  # JSON is YAML
        case "custom":
            if (wifi := _wifi_only(seed.network)) is None:
                raise LocalFault(
                    "custom.toml can hold Wi-Fi by DHCP and nothing else; use --format folder"
                )
            found["custom.toml"] = _custom(wifi)
        case _:
            found[f"{FOLDER}/{seeded.NETWORK}"] = seed.network.to_bytes()
    return found


def _custom(wifi: Wifi) -> bytes:
    """The section that raspberrypi-sys-mods' init_config reads, in TOML."""
    lines = ["config_version = 1", "", "[wlan]", f"ssid = {_quoted(wifi.ssid)}"]
    if wifi.passphrase:
        lines.append(f"password = {_quoted(wifi.passphrase)}")
        lines.append(f"password_encrypted = {json.dumps(len(wifi.passphrase) == 64)}")
    lines.append(f"hidden = {json.dumps(wifi.hidden)}")
    if wifi.country:
        lines.append(f'country = "{wifi.country.upper()}"')
    return ("\n".join(lines) + "\n").encode()


def _quoted(text: str) -> str:
    """A string of TOML, for printable text: literal if it can be, else with JSON's escapes.

    The reader is python3-toml 0.10, which cuts some strings at a quote that is escaped. LocalFault
    for those that it reads wrongly either way.
    """
    if "'" not in text:
        return f"'{text}'"
    if text.startswith('""'):
        raise LocalFault("the board's reader of custom.toml misreads this; use --format folder")
    return json.dumps(text, ensure_ascii=False)


def write(where: Path, found: dict[str, bytes]) -> None:
    """Write the files, the ticket last; LocalFault if the card can't be written."""
    try:
        for name in sorted(found, key=lambda name: name.endswith(f"/{seeded.TICKET}")):
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, found[name])
    except PermissionError as error:
        raise LocalFault(f"{error.filename}: {error.strerror}; run this with sudo") from None
    except OSError as error:
        raise LocalFault(
            f"{where}: {error.strerror}; is the card's boot partition there, and writable?"
        ) from None


def add_image_parser(verbs: Any) -> None:
    """Add `image`."""
    from edge_runtime.provision.command import add_network

    parser = verbs.add_parser("image", help="by an SD card that is mounted here")
    add = parser.add_argument
    add("--board", required=True, help="the kind of board, as rpi4")
    add("--boot", type=Path, required=True, metavar="DIR", help="the card's boot partition")
    add("--format", choices=FORMATS, help="of the network (default: what the card's system reads)")
    add("--ticket", type=Path, required=True, metavar="FILE|DIR", help="a ticket, or a folder")
    add("--owner-key", type=Path, metavar="FILE", help="the owner's public key, to be pinned")
    add_network(parser)
    add("--settings", type=Path, metavar="FILE", help="sections of edge.toml")
    add("--jobs", type=Path, metavar="DIR", help="the folder of records")
    add("--yes", action="store_true", help="don't ask")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from edge_runtime.provision.command import network_of, settings_of
    from edge_runtime.provision.jobs import Card, Jobs, default_folder
    from edge_runtime.provision.screen import PlainScreen
    from edge_runtime.provision.tickets import Tickets

    load(arguments.board)
    if not arguments.boot.is_dir():
        raise LocalFault(f"{arguments.boot}: no such directory; mount the card's boot partition")
    wanted, text = network_of(arguments), settings_of(arguments.settings) or ""
    try:
        if wanted:
            network.addresses(wanted)
    except PeerFault as fault:
        raise LocalFault(f"{fault.detail}; correct the options") from None
    try:
        form = arguments.format or format_of(arguments.boot, wanted)
    except OSError as error:
        raise LocalFault(f"{arguments.boot}: {error.strerror}; run this with sudo") from None
    names = ", ".join(sorted(files(Seed(b"", b"", text, wanted), form)))
    ask = PlainScreen(sys.stderr, arguments.yes).ask
    if not ask(f"write to {arguments.boot} for a {arguments.board} ({form}): {names}?"):
        raise LocalFault("nothing was written")
    others = Seed(b"", b"", text, wanted)
    secret = {f"{FOLDER}/{seeded.TICKET}", f"{FOLDER}/{seeded.OWNER}"}
    # All but the ticket first: a card that can't be written costs none.
    write(arguments.boot, {k: v for k, v in files(others, form).items() if k not in secret})
    taken = _on_card(arguments.boot, arguments.board)
    if taken is None:
        card = f"card-{time.time_ns():x}"
        tickets = Tickets(arguments.ticket, arguments.owner_key)
        taken = tickets.take(arguments.board, card, time.time())
        seed = Seed(taken.ticket.to_bytes(), taken.owner_key, text, wanted)
        write(arguments.boot, files(seed, form))
        folder = Jobs(arguments.jobs or default_folder())
        folder.prepared([Card(card, arguments.board, taken.path.name, taken.token)])
    result = {"boot": str(arguments.boot), "format": form, "token": taken.token}
    print(json.dumps(result, indent=2) if arguments.json else f"written to {arguments.boot}")
    return 0


def _on_card(boot: Path, board: str) -> "Taken | None":
    """The ticket that this card has from a run before, if it is still good for this board."""
    from edge_runtime.provision.tickets import Tickets, misfit

    path = boot / FOLDER / seeded.TICKET
    owner = boot / FOLDER / seeded.OWNER
    if not (path.is_file() and owner.is_file()):
        return None
    try:
        taken = Tickets(path, owner).read(path, time.time())
    except LocalFault:
        return None
    return None if misfit(taken.ticket, board, taken.ticket.serial) else taken
