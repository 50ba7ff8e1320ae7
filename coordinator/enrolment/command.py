"""`qflare token` and `qflare enrol`: the operator's side, beside a running coordinator or without.

What needs the database is imported when it runs: a device has no SQLAlchemy, and yet this in its
`qflare --help`.
"""

import argparse
import json
import re
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.commands import Work, group, verb
from coordinator.config import CoordinatorConfig
from qflare.enrolment import LIFE_MAX_S, TOKEN_LENGTH, fingerprint_words
from qflare.faults import LocalFault
from qflare.host.config import load
from qflare.host.files import write_atomic
from qflare.names import DeviceId

if TYPE_CHECKING:
    from coordinator.enrolment.judge import Claim, Token
    from coordinator.enrolment.register import Entry, Register

COUNT_MAX = 10_000
_UNITS = {"m": 60, "h": 3600, "d": 86_400}

_TICKET_EXAMPLES = """\
examples:
  qflare token new --out tickets                          one ticket, good for a day
  qflare token new --count 100 --expires 14d --out tickets
  qflare token new --name pump-7 --board rpi4 --serial 10000000abcdef01
  qflare token new --name pump-7 --replace                pump-7 gets a new board
  qflare token list
  qflare token revoke 3f9a                                by the beginning of its number

A ticket holds a secret: whoever has the file can enrol one device. The secret isn't in the
database, but follows from enrolment.key beside it (0600); back both up together.
"""
_ENROL_EXAMPLES = """\
examples:
  qflare enrol list                      who came by which ticket, with fingerprint words
  qflare enrol approve pump-7            by name, or by the beginning of the ticket's number
  qflare enrol refuse pump-7
  qflare enrol revoke pump-7             its broker account ends; the certificate is the owner's to
                                         revoke, in the next manifest

Compare the words with those that the technician reads from the device before you approve.
"""


def add_token_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `qflare token`."""
    verbs = group(commands, "token", "tickets by which devices join the fleet", _TICKET_EXAMPLES)
    new = _verb(verbs, "new", "make tickets", _new)
    new.add_argument("--count", type=int, default=1, metavar="N", help="how many (default 1)")
    new.add_argument(
        "--expires", default="24h", metavar="TIME", help="30m, 24h, 14d; at most 366d (default 24h)"
    )
    new.add_argument("--name", default="", help="the only name that it is good for")
    new.add_argument("--board", default="", help="the only kind of board (rpi4, …)")
    new.add_argument("--serial", default="", help="the only board, by its serial number")
    new.add_argument("--replace", action="store_true", help="may take another device's name")
    new.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to (default .)")
    _verb(verbs, "list", "list tickets and what became of them", _list_tokens)
    revoke = _verb(verbs, "revoke", "make tickets void that weren't used", _revoke_tokens)
    revoke.add_argument("tokens", nargs="+", metavar="TOKEN", help="beginning of a number")


def add_enrol_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `qflare enrol`."""
    verbs = group(commands, "enrol", "devices that asked to join the fleet", _ENROL_EXAMPLES)
    _verb(verbs, "list", "list them, with fingerprint words", _list_enrolments)
    for name, text, status in (
        ("approve", "let devices in that wait for it", "approved"),
        ("refuse", "turn them away; the ticket is spent", "denied"),
        ("revoke", "end the broker accounts of devices that were let in", "closed"),
    ):
        parser = _verb(verbs, name, text, _decide)
        parser.add_argument("devices", nargs="+", metavar="DEVICE", help="name, or ticket")
        parser.set_defaults(status=status)


def _verb(verbs: Any, name: str, text: str, run: Work) -> argparse.ArgumentParser:
    parser = verb(verbs, name, text, run)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


@contextmanager
def _register(config: CoordinatorConfig) -> "Iterator[Register]":
    from coordinator.enrolment.register import Register, prepare

    register = Register(prepare(config.coordinator.state_dir))
    try:
        yield register
    finally:
        register.close()


def _config(arguments: argparse.Namespace) -> CoordinatorConfig:
    return load(CoordinatorConfig, "coordinator", arguments.config).value


# --- tickets -----------------------------------------------------------------------------------


def parse_life(text: str) -> int:
    """Seconds of "30m", "24h" or "14d"; raise LocalFault for anything else."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 60 <= seconds <= LIFE_MAX_S:
        raise LocalFault(f"--expires {text[:20]!r}: want 30m, 24h or 14d, at most 366d")
    return seconds


def _new(arguments: argparse.Namespace) -> int:
    from coordinator.enrolment.judge import Token
    from coordinator.enrolment.keyring import Keyring
    from coordinator.enrolment.office import make_ticket
    from coordinator.enrolment.setup import check_brokers, load_signer, section

    if not 1 <= arguments.count <= COUNT_MAX:
        raise LocalFault(f"--count {arguments.count}: want 1…{COUNT_MAX}")
    if arguments.count > 1 and (arguments.name or arguments.serial):
        raise LocalFault("--count: several tickets can't have one name or one serial number")
    config, now = _config(arguments), float(int(time.time()))
    life, given = parse_life(arguments.expires), section(config)
    name = str(DeviceId.parse(arguments.name)) if arguments.name else ""
    signer, ca = load_signer(config), check_brokers(given)
    made = [
        Token(
            id=secrets.token_bytes(TOKEN_LENGTH),
            created_at=now,
            expires_at=now + life,
            name=name,
            board=arguments.board,
            serial=arguments.serial,
            replace=arguments.replace,
        )
        for _ in range(arguments.count)
    ]
    brokers = given.ticket_brokers or given.brokers
    shown = []
    arguments.out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _register(config) as register:
        keyring = Keyring.load(config.coordinator.state_dir, new=register.empty())
        tickets = [make_ticket(token, signer, keyring, brokers, ca) for token in made]
        # Known before they are seen: a file without its row would be a ticket that fails.
        register.add(made)
    for token, ticket in zip(made, tickets, strict=True):
        path = arguments.out / f"{name or 'device'}-{token.id.hex()[:8]}.ticket"
        write_atomic(path, ticket)
        shown.append({**_token_fields(token), "file": str(path)})
    if arguments.json:
        print(json.dumps(shown, indent=2))
    else:
        for one in shown:
            print(f"{one['file']}  good until {one['expires_at']}")
    return 0


def _token_fields(token: "Token") -> dict[str, Any]:
    return {
        "token": token.id.hex(),
        "name": token.name,
        "board": token.board,
        "serial": token.serial,
        "replace": token.replace,
        "created_at": _when(token.created_at),
        "expires_at": _when(token.expires_at),
    }


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%FT%TZ}"


def _state(entry: "Entry", now: float) -> str:
    """One word for what a ticket has come to."""
    if entry.claim is not None:
        return "confirmed" if entry.confirmed else str(entry.claim.status)
    if entry.token.revoked_at is not None:
        return "revoked"
    return "expired" if now >= entry.token.expires_at else "open"


def _list_tokens(arguments: argparse.Namespace) -> int:
    now = time.time()
    with _register(_config(arguments)) as register:
        entries = register.entries()
    rows = [
        {
            **_token_fields(entry.token),
            "state": _state(entry, now),
            "device": str(entry.claim.name) if entry.claim else "",
        }
        for entry in entries
    ]
    _show(arguments, rows, ("token", "state", "device", "name", "board", "serial", "expires_at"))
    return 0


def _revoke_tokens(arguments: argparse.Namespace) -> int:
    with _register(_config(arguments)) as register:
        entries = register.entries()
        chosen = [_one(entries, text) for text in arguments.tokens]
        for entry in chosen:
            if entry.claim is not None:
                raise LocalFault(
                    f"{entry.token.id.hex()} was used by {entry.claim.name}; see `qflare enrol`"
                )
        register.revoke([entry.token.id for entry in chosen], time.time())
    _done(arguments, [entry.token.id.hex() for entry in chosen], "revoked")
    return 0


# --- enrolments --------------------------------------------------------------------------------


def _list_enrolments(arguments: argparse.Namespace) -> int:
    with _register(_config(arguments)) as register:
        entries = register.entries()
    rows = [
        {
            "name": str(entry.claim.name),
            "state": _state(entry, 0.0),
            "words": " ".join(fingerprint_words(entry.claim.fingerprint)),
            "fingerprint": str(entry.claim.fingerprint),
            "board": entry.claim.body.board,
            "serial": entry.claim.body.serial,
            "token": entry.token.id.hex(),
            "asked_at": _when(entry.claim.asked_at),
        }
        for entry in entries
        if entry.claim
    ]
    _show(arguments, rows, ("name", "state", "words", "board", "serial", "asked_at"))
    return 0


def _decide(arguments: argparse.Namespace) -> int:
    from coordinator.enrolment.judge import Status

    status: Status = Status(arguments.status)
    with _register(_config(arguments)) as register:
        entries = [entry for entry in register.entries() if entry.claim]
        chosen = [_one(entries, text) for text in arguments.devices]
        for entry in chosen:
            register.decide(entry.token.id, status, time.time())
        # Read again: until it was decided, a certificate may have been renewed.
        claims = [claim for e in chosen if (claim := register.find(e.token.id)[1]) is not None]
    names = [str(claim.name) for claim in claims]
    _done(arguments, names, str(status))
    if status is Status.CLOSED and not arguments.json:
        for claim in claims:
            numbers = " and ".join(_certificate_serials(claim))
            print(f"{claim.name}: for the owner's manifest, revoke certificate {numbers}")
    return 0


def _certificate_serials(claim: "Claim") -> list[str]:
    """Of the certificates that may still be valid."""
    from cryptography import x509

    ders = [der for der in (claim.certificate, claim.former) if der]
    return [f"{x509.load_der_x509_certificate(der).serial_number:x}" for der in ders]


def _one(entries: "Sequence[Entry]", text: str) -> "Entry":
    """The entry that a person means: a device's name (the one that is alive), or a ticket."""
    from coordinator.enrolment.judge import LIVE

    named = [e for e in entries if e.claim and e.claim.name == text]
    alive = [e for e in named if e.claim and e.claim.status in LIVE]
    for found in (alive, named[-1:]):
        if len(found) == 1:
            return found[0]
    begins = [e for e in entries if len(text) >= 4 and e.token.id.hex().startswith(text.lower())]
    if len(begins) == 1:
        return begins[0]
    count = f"{len(begins)} begin" if begins else "none begins"
    raise LocalFault(f"{text[:40]!r}: no device has that name, and of the tickets {count} so")


def _done(arguments: argparse.Namespace, names: Sequence[str], what: str) -> None:
    if arguments.json:
        print(json.dumps(dict.fromkeys(names, what)))
    else:
        for name in names:
            print(f"{name}: {what}")


def _show(
    arguments: argparse.Namespace, rows: Sequence[dict[str, Any]], columns: Sequence[str]
) -> None:
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("none", file=sys.stderr)
        return
    table = [list(columns), *([str(row[c]) or "-" for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
