"""`qflare provision`: options, and what is printed. Standard output is for results alone."""

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import Any, Final

from edge_runtime.provision import jobs, settings
from edge_runtime.provision.batch import add_batch_parser
from edge_runtime.provision.dialogue import Network, Wifi
from edge_runtime.provision.image import add_image_parser
from edge_runtime.provision.jobs import Jobs, Record
from edge_runtime.provision.problems import Problem
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import read_bounded
from qflare.host.typed import tree_of

WAITING: Final = 75  # EX_TEMPFAIL: done here, and the board waits for a network or the operator

_EXAMPLES: Final = """\
examples:
  qflare provision serial --ticket tickets/ --wifi site7 --wifi-password-file wifi.txt
  qflare provision serial --ticket dev-7.ticket --port /dev/ttyUSB0 --yes --json
  qflare provision image --board rpi4 --boot /media/me/bootfs --ticket tickets/
  qflare provision batch boards.csv --out cards/
  qflare provision report --csv > jobs.csv

Interrupted anywhere, run it again: it goes on where it was.
exit status: 0 enrolled, 1 a problem (said with what to do), 75 the board enrols by itself later
"""


def add_parser(commands: Any) -> None:
    """Add `provision` and its sub-commands."""
    group = commands.add_parser(
        "provision",
        help="bring a board into the fleet",
        description="Bring a board into the fleet: over a serial cable, or by its SD card.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serial(verbs)
    add_image_parser(verbs)
    add_batch_parser(verbs)
    report = verbs.add_parser("report", help="show the jobs done, and which still wait")
    report.add_argument("--jobs", type=Path, help="the folder of records")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print a line for each board")
    report.add_argument(
        "--enrolled",
        type=Path,
        metavar="FILE",
        help="what `qflare enrol list --json` printed: mark the boards that are in it",
    )
    report.set_defaults(run=_report)


def _add_serial(verbs: Any) -> None:
    parser = verbs.add_parser(
        "serial",
        help="over a serial cable",
        description="Set up the board at the other end of a serial cable, and enrol it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", help="the serial port (default: the one that is found)")
    add("--baud", type=int, help="its speed (default: the usual ones are tried)")
    add("--board", help="go on only if the board is this one, as rpi4")
    add("--ticket", type=Path, metavar="FILE|DIR", help="a ticket, or a folder of them")
    add("--owner-key", type=Path, metavar="FILE", help="the owner's public key, to be pinned")
    add_network(parser)
    add("--settings", type=Path, metavar="FILE", help="sections of edge.toml: data, gates, …")
    add("--no-training", action="store_true", help="leave the training out of the self-test")
    add("--wait", type=int, default=60, help="seconds to look on while it enrols (%(default)s)")
    add("--user", default="root", help="of the board's console, if one asks (%(default)s)")
    add("--password-file", type=Path, metavar="FILE", help="that user's password")
    add("--labels", type=Path, metavar="DIR", help="save a label there: text, SVG and PNG")
    add("--jobs", type=Path, metavar="DIR", help="the folder of records")
    add("--yes", action="store_true", help="ask nothing: the words aren't compared")
    add("--json", action="store_true", help="print one JSON object on standard output, alone")
    parser.set_defaults(run=_serial)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Options that say how the board gets to its broker."""
    add = parser.add_argument
    add("--wifi", metavar="SSID", help="a wireless network")
    add("--wifi-password-file", type=Path, metavar="FILE", help="its passphrase, in a file")
    add("--wifi-open", action="store_true", help="it has no passphrase")
    add("--wifi-country", default="", metavar="CC", help="two letters, as DE")
    add("--address", default="", help="a fixed address with its prefix length, as 10.0.0.7/24")
    add("--gateway", default="", help="the router, with --address")
    add("--dns", action="append", default=[], help="a name server; may be repeated")


def network_of(arguments: argparse.Namespace, apply: bool = True) -> Network | None:
    """What the options say, None if nothing; LocalFault for what can't be."""
    if not (arguments.wifi or arguments.address or arguments.dns):
        return None
    try:
        wifi = None
        if arguments.wifi:
            file = arguments.wifi_password_file
            if (file is None) != arguments.wifi_open:
                raise LocalFault(
                    "--wifi: name its passphrase's file by --wifi-password-file, "
                    "or say --wifi-open if it has none"
                )
            secret = "" if file is None else secret_of(file)
            wifi = Wifi(arguments.wifi, secret, arguments.wifi_country, False)
        return Network(wifi, arguments.address, arguments.gateway, tuple(arguments.dns), apply)
    except PeerFault as fault:
        raise LocalFault(f"network: {fault.detail}; correct the options") from None


def settings_of(path: Path | None) -> str | None:
    """The sections that a file holds; LocalFault if they can't be sections of edge.toml."""
    if path is None:
        return None
    try:
        text = read_bounded(path, 64 * 1024).decode()
        settings.verify(text)
    except (OSError, UnicodeDecodeError) as error:
        raise LocalFault(f"{path}: {error}") from None
    except PeerFault as fault:
        raise LocalFault(f"{path}: {fault.detail}") from None
    return text


def secret_of(path: Path) -> str:
    """The first line of a file."""
    try:
        lines = read_bounded(path, 4096).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalFault(f"{path}: {error}; a secret's file holds one line") from None
    return lines[0] if lines else ""


def _serial(arguments: argparse.Namespace) -> int:
    try:
        from edge_runtime.provision import ports, screen
        from edge_runtime.provision.console import Account
        from edge_runtime.provision.technician import Plan, Technician
        from edge_runtime.provision.tickets import Tickets
    except ModuleNotFoundError as missing:
        raise LocalFault(
            f"provision needs {missing.name}; run: pip install 'qflare[provision]'"
        ) from None

    def password() -> str:
        if arguments.password_file:
            return secret_of(arguments.password_file)
        return "" if arguments.yes else getpass.getpass(f"password of {arguments.user}: ")

    source = arguments.ticket
    plan = Plan(
        port=ports.choose(arguments.port, ports.candidates() if not arguments.port else []),
        tickets=Tickets(source, arguments.owner_key) if source else None,
        bauds=(arguments.baud,) if arguments.baud else ports.BAUDS,
        board=arguments.board,
        network=network_of(arguments),
        settings=settings_of(arguments.settings),
        training=not arguments.no_training,
        wait=min(max(arguments.wait, 1), 3600),
        labels=arguments.labels,
        account=Account(arguments.user, password),
    )
    folder = Jobs(arguments.jobs or jobs.default_folder())
    shown = screen.choose(sys.stderr, arguments.yes)
    technician = Technician(plan, folder, shown)
    try:
        record = technician.run()
    except Problem as problem:
        if arguments.json:
            print(json.dumps(tree_of(technician.record) | {"code": str(problem.code)}, indent=2))
        shown.problem(str(problem))
        return 1
    if arguments.json:
        print(json.dumps(tree_of(record), indent=2))
    return WAITING if record.result == "waiting" else 0


def _report(arguments: argparse.Namespace) -> int:
    folder = Jobs(arguments.jobs or jobs.default_folder())
    if arguments.enrolled:
        try:
            listed = json.loads(read_bounded(arguments.enrolled, 16 * 1024 * 1024))
        except (OSError, ValueError) as error:
            raise LocalFault(f"{arguments.enrolled}: {error}") from None
        jobs.confirm(folder, listed)
    records = [record for _, record in folder.every()]
    if arguments.json:
        print(json.dumps([tree_of(record) for record in records], indent=2))
    elif arguments.csv:
        print(jobs.as_csv(records), end="")
    else:
        print("\n".join(report_lines(records)))
    return 0


def report_lines(records: list[Record]) -> list[str]:
    """A table for people, and what is left to do."""
    rows = [("started", "serial", "board", "name", "result")]
    for r in records:
        result = r.result + (", confirmed" if r.confirmed else "")
        rows.append((r.started[:10], r.serial, r.board, r.name or "-", result))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    waiting = sum(r.result == "waiting" for r in records)
    unconfirmed = sum(not r.confirmed for r in records)
    lines.append(f"{len(records)} boards, {waiting} waiting, {unconfirmed} not yet confirmed")
    return lines
