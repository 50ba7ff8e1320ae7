"""`qflare provision image`: what a card needs so that its board enrols at the first start. I/O.

Raspberry Pi OS reads cloud-init's files from the FAT partition (trixie; `--format cloudinit`) or
runs firstrun.sh (bookworm; `--format systemd`); a Jetson, and whatever else runs systemd, gets a
folder and a script for its first start. Sources: raspberrypi/rpi-imager,
doc/os_customisation_formats.md. All of them end in
qflare-provisiond.service, which takes the folder `qflare/` there and then removes it.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.provision import network, seeded
from edge_runtime.provision.dialogue import Network
from qflare.faults import LocalFault, PeerFault
from qflare.host.boards import load
from qflare.host.files import write_atomic

FORMATS: Final = ("cloudinit", "systemd", "overlay")
FOLDER: Final = "qflare"
# The unit takes what it finds in `daemon.SEEDS`; it may have started before that was there.
_START: Final = ["systemctl", "restart", "--no-block", "qflare-provisiond.service"]


@dataclass(frozen=True)
class Seed:
    """What the card carries; `ticket` and `owner` together."""

    ticket: bytes
    owner: bytes
    settings: str
    network: Network | None


def format_of(board: str) -> str:
    """The format for a board unless another is asked for; LocalFault for an unknown board."""
    return "cloudinit" if load(board).family == "raspberry-pi" else "overlay"


def files(seed: Seed, form: str) -> dict[str, bytes]:
    """The card's files by their names below the boot partition (or the overlay's folder)."""
    found = {
        f"{FOLDER}/{seeded.TICKET}": seed.ticket,
        f"{FOLDER}/{seeded.OWNER}": seed.owner,
    }
    if seed.settings:
        found[f"{FOLDER}/{seeded.SETTINGS}"] = seed.settings.encode()
    keyfile = network.keyfile(seed.network).encode() if seed.network else None
    match form:
        case "cloudinit":
            user = {"runcmd": [_START]}
            found["user-data"] = b"#cloud-config\n" + _json(user)
            found["meta-data"] = _json({"instance-id": f"qflare-{int(time.time())}"})
            if seed.network:
                found["network-config"] = _json(network.tree(seed.network))
        case "systemd":
            found["firstrun.sh"] = _script(keyfile).encode()
        case "overlay":
            found["first-boot.sh"] = _script(keyfile, f"/var/lib/{FOLDER}-seed").encode()
        case _:
            raise LocalFault(f"no format {form!r}; there are {', '.join(FORMATS)}")
    return found


def _script(keyfile: bytes | None, seeds: str | None = None) -> str:
    """Run once, as root; `seeds`: where the folder beside the script is to be moved first."""
    lines = ["#!/bin/sh", "# Run once, as root, at the first start.", "set -u"]
    if seeds is not None:
        lines.append(f'mkdir -p {seeds} && mv "$(dirname "$0")"/{FOLDER}/* {seeds}/')
    if keyfile is not None:
        target = "/etc/NetworkManager/system-connections/qflare.nmconnection"
        lines += [
            "umask 077",
            f"printf '%s' {shlex.quote(keyfile.decode())} > {target}",
            f"chmod 600 {target}",
            "nmcli connection reload || true",
        ]
    lines += [
        " ".join(_START),
        'rm -f -- "$0"',
        r"sed -i 's| systemd\.run[^ ]*||g' /boot/firmware/cmdline.txt 2>/dev/null || true",
        "exit 0",
    ]
    return "\n".join(lines) + "\n"


def write(where: Path, found: dict[str, bytes]) -> None:
    """Write the files, the ticket last; LocalFault if the card can't be written."""
    try:
        for name in sorted(found, key=lambda name: name.endswith(f"/{seeded.TICKET}")):
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, found[name], 0o755 if name.endswith(".sh") else 0o600)
    except OSError as error:
        raise LocalFault(
            f"{where}: {error.strerror}; is the card's boot partition there?"
        ) from None


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=2).encode() + b"\n"  # JSON is YAML


def add_image_parser(verbs: Any) -> None:
    """Add `image`."""
    from edge_runtime.provision.command import add_network

    parser = verbs.add_parser("image", help="by an SD card that is mounted here")
    add = parser.add_argument
    add("--board", required=True, help="the kind of board, as rpi4")
    add("--boot", type=Path, required=True, metavar="DIR", help="the card's boot partition")
    add("--format", choices=FORMATS, help="(default: what the board's usual system reads)")
    add("--ticket", type=Path, required=True, metavar="FILE|DIR", help="a ticket, or a folder")
    add("--owner-key", type=Path, metavar="FILE", help="the owner's public key, to be pinned")
    add_network(parser)
    add("--settings", type=Path, metavar="FILE", help="sections of edge.toml")
    add("--yes", action="store_true", help="don't ask")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from edge_runtime.provision.command import network_of, settings_of
    from edge_runtime.provision.screen import PlainScreen
    from edge_runtime.provision.tickets import Tickets

    form = arguments.format or format_of(arguments.board)
    if not arguments.boot.is_dir():
        raise LocalFault(f"{arguments.boot}: no such directory; mount the card's boot partition")
    wanted, text = network_of(arguments), settings_of(arguments.settings) or ""
    try:
        if wanted:
            network.addresses(wanted)
    except PeerFault as fault:
        raise LocalFault(f"{fault.detail}; correct the options") from None
    names = ", ".join(sorted(files(Seed(b"", b"", text, wanted), form)))
    ask = PlainScreen(sys.stderr, arguments.yes).ask
    if not ask(f"write to {arguments.boot} for a {arguments.board} ({form}): {names}?"):
        raise LocalFault("nothing was written")
    tickets = Tickets(arguments.ticket, arguments.owner_key)
    taken = tickets.take(arguments.board, f"card-{time.time_ns():x}", time.time())
    seed = Seed(taken.ticket.to_bytes(), taken.owner_key, text, wanted)
    write(arguments.boot, files(seed, form))
    result = {"boot": str(arguments.boot), "format": form, "ticket": taken.path.name}
    print(json.dumps(result, indent=2) if arguments.json else f"written to {arguments.boot}")
    return 0
