"""`qflare provision batch`: a folder for each board of a list, checked as a whole first. I/O."""

import argparse
import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.provision import network
from edge_runtime.provision.dialogue import Network, Wifi
from edge_runtime.provision.image import Seed, files, write
from edge_runtime.provision.jobs import Card, Jobs, default_folder
from edge_runtime.provision.tickets import USED, Tickets
from qflare.enrolment import clean_serial
from qflare.faults import LocalFault, PeerFault
from qflare.host.boards import load
from qflare.host.files import read_bounded

COLUMNS: Final = ("serial", "board", "ticket", "wifi", "wifi_password", "address", "gateway", "dns")
_NEEDED: Final = ("serial", "board", "ticket")
_ROWS_MAX: Final = 10_000
_SHOWN: Final = 50


@dataclass(frozen=True)
class Row:
    """One board: its line in the file, and what its card carries."""

    line: int
    serial: str
    board: str
    ticket: Path
    network: Network | None


def read(path: Path) -> list[Row]:
    """The rows; LocalFault with every fault and its line. Tickets are relative to the list."""
    try:
        text = read_bounded(path, 8 * 1024 * 1024).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LocalFault(f"{path}: {error}; a CSV file in UTF-8 is wanted") from None
    first = text.partition("\n")[0]
    # As the language of the spreadsheet has it.
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    rows: list[Row] = []
    faults: list[str] = []
    try:
        names = reader.fieldnames or []
        unknown = sorted(set(names) - set(COLUMNS)) or [n for n in _NEEDED if n not in names]
        if unknown:
            raise LocalFault(f"{path}:1: columns: {', '.join(unknown)}; want {', '.join(COLUMNS)}")
        for cells in reader:
            try:
                rows.append(_row(reader.line_num, cells, path.parent))
            except LocalFault as fault:
                faults.append(f"{path}:{reader.line_num}: {fault}")
            except PeerFault as fault:
                faults.append(f"{path}:{reader.line_num}: {fault.detail}")
    except csv.Error as error:
        faults.append(f"{path}:{reader.line_num}: {error}")
    seen: dict[object, int] = {}
    for row in rows:
        for what in (row.serial, row.ticket):
            if what in seen:
                faults.append(f"{path}:{row.line}: {what} is in line {seen[what]} already")
            seen[what] = row.line
    if not rows and not faults:
        faults.append(f"{path}: no boards in it")
    if len(rows) > _ROWS_MAX:
        faults.append(f"{path}: more than {_ROWS_MAX} boards")
    _refuse(faults)
    return rows


def _row(line: int, cells: dict[str, Any], base: Path) -> Row:
    if None in cells or any(value is None for value in cells.values()):
        raise LocalFault("more or fewer cells than the first line has")
    cell = {name: str(cells.get(name, "")).strip() for name in COLUMNS}
    if not cell["serial"] or clean_serial(cell["serial"]) != cell["serial"]:
        raise LocalFault(f"serial {cell['serial'][:40]!r}: want [0-9A-Za-z._:-]")
    load(cell["board"])
    ticket = base / cell["ticket"]
    taken = ticket.parent / USED / f"{cell['serial']}--{ticket.name}"  # by a run before this
    if not ticket.is_file() and not taken.is_file():
        raise LocalFault(f"ticket {ticket}: no such file")
    wifi = Wifi(cell["wifi"], cell["wifi_password"], "", False) if cell["wifi"] else None
    wanted = None
    if wifi or cell["address"]:
        dns = tuple(cell["dns"].split())
        wanted = Network(wifi, cell["address"], cell["gateway"], dns, True)
        network.addresses(wanted)
    return Row(line, cell["serial"], cell["board"], ticket, wanted)


def add_batch_parser(verbs: Any) -> None:
    """Add `batch`."""
    parser = verbs.add_parser(
        "batch",
        help="folders for the cards of many boards, from a CSV file",
        description=f"Columns: {', '.join(COLUMNS)}; the first three are needed.",
    )
    add = parser.add_argument
    add("file", type=Path, help="a CSV file; its first line names the columns")
    add("--out", type=Path, required=True, metavar="DIR", help="a folder for each board, below it")
    add("--owner-key", type=Path, metavar="FILE", help="the owner's public key, to be pinned")
    add("--settings", type=Path, metavar="FILE", help="sections of edge.toml, for all of them")
    add("--jobs", type=Path, metavar="DIR", help="the folder of records")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from edge_runtime.provision.command import settings_of

    rows, text = read(arguments.file), settings_of(arguments.settings) or ""
    now, faults = time.time(), []
    for row in rows:
        try:
            Tickets(row.ticket, arguments.owner_key).find(row.board, row.serial, now)
        except LocalFault as fault:
            faults.append(f"{arguments.file}:{row.line}: {fault}")
    _refuse(faults)

    def write_each() -> Iterator[Card]:
        for row in rows:
            taken = Tickets(row.ticket, arguments.owner_key).take(row.board, row.serial, now)
            seed = Seed(taken.ticket.to_bytes(), taken.owner_key, text, row.network)
            write(arguments.out / row.serial, files(seed, "folder"))
            yield Card(row.serial, row.board, taken.path.name, taken.token)

    Jobs(arguments.jobs or default_folder()).prepared(write_each())
    if arguments.json:
        print(json.dumps({"boards": [row.serial for row in rows]}, indent=2))
    else:
        print(f"{len(rows)} boards: copy what is in {arguments.out}/SERIAL onto its boot partition")
    return 0


def _refuse(faults: list[str]) -> None:
    """Raise LocalFault with all of them, if there are any."""
    if faults:
        more = f"\nand {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise LocalFault("\n".join(faults[:_SHOWN]) + more + "\nnothing was written")
