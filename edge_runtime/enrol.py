"""Joining a fleet: from a ticket to a device that the daemon can run as.

    enrolled = await enrol(ticket, Path("/etc/qflare"), "rpi4", "10000000abcdef01", print)

Interrupted anywhere and run again with the same ticket, it ends as the same device.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from edge_runtime.enrol_exchange import REMEDIES, EnrolmentRefused, Exchange, Step
from edge_runtime.enrol_files import (
    CA,
    CERTIFICATE,
    OWNER,
    PASSWORD,
    SEED,
    EnrolFiles,
    Enrolled,
)
from qflare.crypto.certificates import verify_device
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.enrolment import (
    TICKET_MAX,
    EnrolGrant,
    Refusal,
    Ticket,
    clean_serial,
    fingerprint_words,
    parse_ticket,
    peek_terms,
    suite_of,
)
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.boards.recognise import detect, serial_number
from qflare.host.files import read_bounded, take_lock
from qflare.host.link import Connected, Disconnected, Event, Link, LinkConfig, Message
from qflare.names import DeviceId, Digest
from qflare.owners import open_manifest
from qflare.record import check
from qflare.topics import EnrolDown, EnrolUp, build

__all__ = ["Enrolled", "EnrolmentRefused", "NoAnswer", "add_enrol_parser", "edge_tables", "enrol"]

DIRECTORY = Path("/etc/qflare")
SILENCE_S = 120.0  # without a connection or a word from the coordinator
APPROVAL_S = 600.0  # how long to wait for the operator before this run ends
TICK_S = 0.25


class NoAnswer(LocalFault):
    """Nobody answered in time; everything is kept for the next run with the same ticket."""


async def enrol(
    ticket_bytes: bytes,
    directory: Path,
    board: str,
    serial: str,
    report: Callable[[str], None],
    *,
    silence_s: float = SILENCE_S,
    approval_s: float = APPROVAL_S,
) -> Enrolled:
    """Enrol this device by a ticket; its files are in `directory` when this returns.

    `board` is the profile's name (see firmware_config/boards; may be empty), `serial` the board's
    own number. `report` is given lines for people. Raises PeerFault for a ticket that isn't good,
    EnrolmentRefused for a final no, NoAnswer when nobody answers for `silence_s` or approves within
    `approval_s` seconds, LocalFault for what is wrong here.
    """
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o755)  # the daemon's user reads here; what is secret is 0600 by itself
    lock = take_lock(directory / ".enrolling.lock", f"{directory}: another enrolment is at work")
    try:
        return await _enrol(
            EnrolFiles(directory), ticket_bytes, board, serial, report, silence_s, approval_s
        )
    finally:
        os.close(lock)


async def _enrol(
    files: EnrolFiles,
    ticket_bytes: bytes,
    board: str,
    serial: str,
    report: Callable[[str], None],
    silence_s: float,
    approval_s: float,
) -> Enrolled:
    terms = peek_terms(ticket_bytes)
    found = files.marker()
    if found is not None:
        enrolled, token = found
        if token == terms.token.hex():
            files.tidy()
            report(f"this device is {enrolled.name} of {enrolled.fleet} already")
            return enrolled
        raise LocalFault(
            f"this device is {enrolled.name} of {enrolled.fleet} already; run `qflare device "
            "forget` first to enrol it anew"
        )
    # A board without a clock battery lives in the past until it has a network; when it was made,
    # by the coordinator's word, is the least that it can be now.
    ticket = parse_ticket(ticket_bytes, terms.owner_key, max(time.time(), terms.issued_at))
    suite_of(ticket.manifest)
    serial = clean_serial(serial)
    _bound(ticket, board, serial)
    if files.pin_owner(terms.owner_key):
        owner = VerifyKey.parse(DEFAULT, terms.owner_key).fingerprint
        report(f"fleet owner, pinned from now on: {' '.join(fingerprint_words(owner))}")
    key = files.device_key()
    name = ticket.name or default_name(board, serial, key.verify_key.fingerprint)
    request, keys = files.request(ticket, key, name, board, serial)
    words = " ".join(fingerprint_words(key.verify_key.fingerprint))
    report(f"this device: {request.name}, {words}")
    exchange = Exchange(ticket, request, keys)
    runner = _Runner(ticket, exchange, files.trust(terms.ca), report)
    grant = await runner.run(silence_s, approval_s)
    verify_grant(grant, ticket, key, time.time())
    enrolled = files.finish(grant, request)
    report(f"enrolled as {enrolled.name} of {enrolled.fleet}")
    return enrolled


def _bound(ticket: Ticket, board: str, serial: str) -> None:
    """Say at once what the coordinator would refuse; raise EnrolmentRefused."""
    if ticket.board and ticket.board != board:
        raise EnrolmentRefused(Refusal.WRONG_BOARD)
    if ticket.serial and ticket.serial != serial:
        raise EnrolmentRefused(Refusal.WRONG_SERIAL)


def default_name(board: str, serial: str, fingerprint: Digest) -> DeviceId:
    """The name that a device asks for when its ticket has none: "rpi4-00abcdef"."""
    plain = "".join(c for c in serial.lower() if c in "0123456789abcdefghijklmnopqrstuvwxyz")
    tail = plain[-8:] if len(plain) >= 6 else str(fingerprint)[:8]
    return DeviceId.parse(f"{board[:20].strip('-') or 'device'}-{tail}")


def verify_grant(grant: EnrolGrant, ticket: Ticket, key: SigningKey, now: float) -> None:
    """Hold the coordinator's word against the owner's; raise LocalFault for what isn't right.

    The certificate is for our key and name, by a device CA of the manifest that stands; the owner
    is the pinned one.
    """
    try:
        owner = VerifyKey.parse(DEFAULT, ticket.terms.owner_key)
        check(grant.owner_key == owner.raw, "it names another owner", Reason.BAD_SIGNATURE)
        check(grant.user == grant.name, f"its broker account is {grant.user[:40]!r}'s")
        manifest = ticket.manifest
        if grant.newer_manifest:
            manifest, _ = open_manifest(grant.newer_manifest, owner, manifest.fleet)
            ticket.manifest.verify_successor(manifest)
        check(grant.manifest == manifest.digest, "of another manifest", Reason.WRONG_DIGEST)
        certificate = verify_device(
            grant.certificate,
            manifest.device_cas,
            datetime.fromtimestamp(max(now, grant.issued_at), UTC),
            manifest.fleet,
            manifest.revoked_serials,
            key.suite,
        )
        check(certificate.device == grant.name, f"certificate of {certificate.device}")
        ours = certificate.verify_key == key.verify_key
        check(ours, "a certificate for another key", Reason.BAD_CERTIFICATE)
    except PeerFault as fault:
        clock = ""
        if fault.reason is Reason.EXPIRED_CERTIFICATE:
            clock = f" This clock says {datetime.fromtimestamp(now, UTC):%F %T} UTC: set it."
        raise LocalFault(
            f"the grant isn't good: {fault}.{clock} Nothing was changed; tell the operator"
        ) from None


class _Runner:
    """The exchange over a link."""

    def __init__(
        self, ticket: Ticket, exchange: Exchange, ca: Path | None, report: Callable[[str], None]
    ) -> None:
        self._exchange, self._report = exchange, report
        self._topic = build(EnrolUp(ticket.fleet, ticket.token))
        self._answers = build(EnrolDown(ticket.fleet, ticket.token))
        self._said = ""
        self._last = "no answer"
        terms = ticket.terms
        config = LinkConfig(
            url=terms.brokers[0],
            fallbacks=terms.brokers[1:],
            username=terms.user,
            password=terms.password,
            ca_file=ca,
            # Unlike others with the same ticket, who would else end this connection.
            client_id=f"enrol-{exchange.request.digest.short}",
            session_expiry_s=0,
            backoff_max_s=5.0,
        )
        self._link = Link(config, subscriptions=[self._answers])

    async def run(self, silence_s: float, approval_s: float) -> EnrolGrant:
        """The grant; raise EnrolmentRefused or NoAnswer."""
        running = asyncio.create_task(self._link.run(self._on_event))
        try:
            return await self._wait(running, silence_s, approval_s)
        finally:
            self._link.close()
            with suppress(TimeoutError, LocalFault):
                await asyncio.wait_for(running, 2.0)

    async def _wait(
        self, running: asyncio.Task[None], silence_s: float, approval_s: float
    ) -> EnrolGrant:
        exchange, began = self._exchange, time.monotonic()
        while exchange.grant is None:
            if running.done():
                running.result()
                raise NoAnswer(f"the link ended: {self._last}")
            now = time.monotonic()
            self._send(exchange.tick(now) if self._link.connected else [])
            self._say(exchange.step.value)
            if now - max(began, exchange.heard_at or began) > silence_s:
                raise NoAnswer(
                    f"no answer within {silence_s:.0f} s ({self._last}); check the network and the "
                    "broker's address, and run this again with the same ticket"
                )
            if exchange.pending is Refusal.AWAITING and now - began > approval_s:
                raise NoAnswer(
                    "the operator hasn't approved this device yet; run this again with the same "
                    "ticket once they have"
                )
            await asyncio.wait({running}, timeout=TICK_S)
        return exchange.grant

    def _on_event(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Connected():
                self._last = "connected, and the coordinator is silent"
                self._send(self._exchange.connected(now))
            case Disconnected(reason=reason, refused=refused):
                hint = "; a ticket that expired or was revoked isn't let in, nor one just made"
                self._last = reason + (hint if refused else "")
                self._say(f"broker: {self._last}")
            case Message(topic=topic, payload=payload) if topic == self._answers:
                self._send(self._exchange.receive(payload, now))

    def _send(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            self._link.publish(self._topic, payload)

    def _say(self, line: str) -> None:
        exchange = self._exchange
        if exchange.step is Step.WAITING and exchange.pending:
            line = REMEDIES[exchange.pending]
        if line != self._said:
            self._said = line
            self._report(line)


# --- the command ------------------------------------------------------------------------------


def edge_tables(enrolled: Enrolled) -> dict[str, dict[str, object]]:
    """The sections of edge.toml that follow from an enrolment; paths relative to the files."""
    broker: dict[str, object] = {"url": enrolled.brokers[0], "password_file": PASSWORD}
    if enrolled.private_ca:
        broker["ca_file"] = CA
    if enrolled.brokers[1:]:
        broker["fallbacks"] = list(enrolled.brokers[1:])
    return {
        "device": {
            "fleet": str(enrolled.fleet),
            "name": str(enrolled.name),
            "key": SEED,
            "certificate": CERTIFICATE,
            "owner_key": OWNER,
        },
        "broker": broker,
    }


_EXAMPLES = """\
examples:
  qflare device enrol --ticket dev-7.ticket            join the fleet; run it again after any cut
  qflare device enrol --ticket dev-7.ticket --json     one JSON object; progress on stderr
  qflare device enrol --ticket t --dir ./try --board rpi4 --serial 10000000abcdef01

exit status: 0 enrolled, 1 refused or wrong, 75 nobody answered yet (run it again)
"""


def add_enrol_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `enrol` to the sub-commands of `qflare device`."""
    parser = commands.add_parser(
        "enrol",
        help="join a fleet by a ticket",
        description="Make this device's key, prove to the coordinator that it holds the ticket, "
        "and keep the certificate and the broker account that come back.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ticket", type=Path, required=True, metavar="FILE", help="the ticket")
    parser.add_argument(
        "--dir",
        type=Path,
        default=DIRECTORY,
        metavar="DIR",
        help="its files",
    )
    parser.add_argument("--board", help="the board's profile (default: what is found)")
    parser.add_argument("--serial", help="the board's serial number (default: what is found)")
    parser.add_argument(
        "--wait",
        type=float,
        default=SILENCE_S,
        metavar="SECONDS",
        help=f"how long to wait for an answer (default {SILENCE_S:.0f})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`qflare device enrol`."""
    out = sys.stderr if arguments.json else sys.stdout

    def report(line: str) -> None:
        print(line, file=out, flush=True)

    found_board, found_serial = identify()
    board = found_board if arguments.board is None else arguments.board
    serial = found_serial if arguments.serial is None else arguments.serial
    try:
        ticket = read_bounded(arguments.ticket, TICKET_MAX)
        enrolled = asyncio.run(
            enrol(ticket, arguments.dir, board, serial, report, silence_s=arguments.wait)
        )
    except NoAnswer as fault:
        print(f"qflare: {fault}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except PeerFault as fault:
        raise LocalFault(f"{arguments.ticket}: not a ticket that is good here: {fault}") from None
    except OSError as error:
        where = error.filename or arguments.ticket
        raise LocalFault(f"{where}: {error.strerror}; check its name, owner and mode") from None
    if arguments.json:
        shown = {
            "name": str(enrolled.name),
            "fleet": str(enrolled.fleet),
            "fingerprint": str(enrolled.fingerprint),
            "words": enrolled.words,
            "brokers": list(enrolled.brokers),
            "directory": str(arguments.dir),
        }
        print(json.dumps(shown))
    else:
        report(f"compare these words with the operator's: {enrolled.words}")
    return 0


def identify(root: Path = Path("/")) -> tuple[str, str]:
    """Board profile and serial number of this machine, as far as they show; empty if not."""
    board = detect(root)
    return board.name if board else "", clean_serial(serial_number(root))
