"""The ticket that a technician carries: what it says, and how it is verified offline. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final
from urllib.parse import urlsplit

from qflare import codec
from qflare.crypto.keys import SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import open_signed, sign
from qflare.faults import PeerFault, Reason
from qflare.messages import KIB, Message
from qflare.names import DeviceId, FleetId
from qflare.owners import open_manifest
from qflare.policy import OwnerManifest
from qflare.record import check

TOKEN_LENGTH = 16
SECRET_LENGTH = 32
TICKET_MAX = OwnerManifest.CEILING + 64 * KIB  # bytes; a usual one has 20,000
BROKERS_MAX = 8
CA_MAX = 16 * KIB
LIFE_MAX_S = 366 * 86_400
CLOCKS_DIFFER_S = 86_400  # further behind than this and it isn't the ticket that is wrong

_BOARD = re.compile(r"[a-z0-9-]{0,40}")
_SERIAL = re.compile(r"[0-9A-Za-z._:-]{0,64}")
_ACCOUNT = re.compile(r"[0-9A-Za-z._-]{1,64}")


def clean_serial(text: str) -> str:
    """A board's serial number as messages spell it: what else it has is left out."""
    return "".join(c for c in text if _SERIAL.fullmatch(c))[:64]


def check_board(board: str, serial: str) -> None:
    check(bool(_BOARD.fullmatch(board)), f"board {board[:40]!r}: want [a-z0-9-], at most 40")
    check(bool(_SERIAL.fullmatch(serial)), f"serial {serial[:40]!r}: want [0-9A-Za-z._:-], 64")


def check_brokers(brokers: Sequence[str], ca: bytes) -> None:
    check(1 <= len(brokers) <= BROKERS_MAX, f"between 1 and {BROKERS_MAX} brokers")
    for text in brokers:
        try:
            url = urlsplit(text)
            ok = url.scheme in ("mqtt", "mqtts") and bool(url.hostname) and url.port != 0
        except ValueError:
            ok = False
        plain = len(text) <= 256 and text.isascii() and text.isprintable() and "@" not in text
        check(ok and plain, f"broker {text[:60]!r}: want mqtts://host:port")
    check(len(ca) <= CA_MAX, f"CA certificates of more than {CA_MAX} bytes", Reason.TOO_LARGE)


def check_account(user: str, password: str) -> None:
    check(bool(_ACCOUNT.fullmatch(user)), "broker account: bad name")
    check(bool(_ACCOUNT.fullmatch(password)), "broker account: bad password")


def check_token(token: bytes) -> None:
    check(len(token) == TOKEN_LENGTH, f"a token's number has {TOKEN_LENGTH} bytes")


@dataclass(frozen=True)
class TicketTerms(Message):
    """What a ticket says, signed by the coordinator."""

    TAG: ClassVar[int] = 60
    CEILING: ClassVar[int] = 32 * KIB
    CONTEXT: ClassVar[str] = "enrol-ticket"

    fleet: FleetId
    token: bytes
    secret: bytes = field(repr=False)
    name: DeviceId | None  # the only name that it is good for, or any
    board: str  # the only kind of board, or empty
    serial: str  # the only board, or empty
    brokers: tuple[str, ...]  # where to ask, the first one first
    ca: bytes  # PEM, what the brokers' certificates are checked by; empty: the system's CAs
    user: str  # the broker account that can do nothing but this
    password: str = field(repr=False)
    owner_key: bytes
    issued_at: int  # Unix seconds
    expires_at: int

    def __post_init__(self) -> None:
        check_token(self.token)
        check(len(self.secret) == SECRET_LENGTH, f"a token's secret has {SECRET_LENGTH} bytes")
        check_board(self.board, self.serial)
        check_brokers(self.brokers, self.ca)
        check_account(self.user, self.password)
        check(0 < self.issued_at < self.expires_at < 2**40, "ticket: it ends before it begins")
        check(self.expires_at - self.issued_at <= LIFE_MAX_S, "ticket: longer than a year")


@final
@dataclass(frozen=True)
class Ticket:
    """A verified ticket: its terms, and the owner's word for who signed them."""

    terms: TicketTerms
    manifest: OwnerManifest = field(repr=False)
    raw: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """The ticket as it is carried, as `parse_ticket` takes it; it holds a secret."""
        return self.raw

    @property
    def coordinator_key(self) -> VerifyKey:
        """Whose word counts in this exchange."""
        return VerifyKey.parse(DEFAULT, self.manifest.coordinator_key)

    @property
    def fleet(self) -> FleetId:
        return self.terms.fleet

    @property
    def token(self) -> bytes:
        return self.terms.token

    @property
    def name(self) -> DeviceId | None:
        return self.terms.name

    @property
    def board(self) -> str:
        return self.terms.board

    @property
    def serial(self) -> str:
        return self.terms.serial

    @property
    def brokers(self) -> tuple[str, ...]:
        return self.terms.brokers

    @property
    def expires_at(self) -> int:
        return self.terms.expires_at


def issue_ticket(terms: TicketTerms, manifest: bytes, key: SigningKey) -> bytes:
    """The bytes to carry: `manifest` is the signed owner manifest that names `key`."""
    return codec.encode([manifest, sign(terms, key)])


def parse_ticket(data: bytes, owner_key: bytes, now: float) -> Ticket:
    """Verify a ticket offline by the pinned `owner_key` (raw) at `now` (Unix seconds).

    Raises PeerFault: TOO_LARGE, MALFORMED, BAD_VALUE, BAD_SIGNATURE for a ticket of another owner
    or a changed one, WRONG_FLEET, EXPIRED_TICKET (also where this clock is so far behind that it
    can't be the ticket).
    """
    signed_manifest, signed_terms = _halves(data)
    owner = VerifyKey.parse(DEFAULT, owner_key)
    manifest, _ = open_manifest(signed_manifest, owner, peek_terms(data).fleet)
    coordinator = VerifyKey.parse(DEFAULT, manifest.coordinator_key)
    terms = open_signed(TicketTerms, signed_terms, coordinator)
    check(terms.fleet == manifest.fleet, f"ticket for {terms.fleet}", Reason.WRONG_FLEET)
    check(terms.owner_key == owner_key, "ticket names another owner", Reason.BAD_SIGNATURE)
    check(
        now < terms.expires_at,
        f"it ended at {terms.expires_at} and this clock says {now:.0f} (Unix seconds): take a "
        "fresh ticket, or set the clock",
        Reason.EXPIRED_TICKET,
    )
    check(
        now > terms.issued_at - CLOCKS_DIFFER_S,
        f"it was made at {terms.issued_at} and this clock says {now:.0f} (Unix seconds): set the "
        "clock",
        Reason.EXPIRED_TICKET,
    )
    return Ticket(terms, manifest, data)


def peek_terms(data: bytes) -> TicketTerms:
    """What a ticket says, *unverified*: to find the owner key that is about to be pinned."""
    body, _ = _pair(codec.decode(_halves(data)[1], TICKET_MAX))
    return TicketTerms.parse(body)


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return _pair(codec.decode(data, TICKET_MAX))


def _pair(value: codec.Value) -> tuple[bytes, bytes]:
    match value:
        case [bytes() as first, bytes() as second]:
            return first, second
    raise PeerFault(Reason.MALFORMED, "not a ticket: two byte strings were expected")
