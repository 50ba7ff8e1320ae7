"""How a device joins a fleet: a ticket, a request, a challenge, a proof, a grant. Pure.

A technician carries a `Ticket`, signed by the coordinator's key together with the owner manifest
that vouches for that key. The device makes its own keys and asks (`EnrolRequest`); the coordinator
answers with a nonce (`EnrolChallenge`); the device proves that it knows the ticket's secret and
holds the key (`EnrolProof`: HMAC-SHA256, RFC 2104, and an ML-DSA signature over the same words), so
that the secret itself never travels. The `EnrolGrant` is sealed to a KEM key that was made for this
one request. Whatever the coordinator says is signed by its key.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Self, final
from urllib.parse import urlsplit

from qflare import codec
from qflare.crypto.keys import KemPrivateKey, KemPublicKey, Signature, SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT, Aead, Suite
from qflare.envelope import open_signed, sign
from qflare.faults import PeerFault, Reason
from qflare.messages import KIB, Message
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import OwnerManifest
from qflare.record import check
from qflare.words import WORDS

TOKEN_LENGTH = 16
SECRET_LENGTH = 32
NONCE_LENGTH = 32
TICKET_MAX = OwnerManifest.CEILING + 64 * KIB  # bytes; a usual one has 20,000
WORDS_SHOWN = 6  # of 11 bits each: 66 bits
BROKERS_MAX = 8
CA_MAX = 16 * KIB
LIFE_MAX_S = 366 * 86_400
CLOCKS_DIFFER_S = 86_400  # further behind than this and it isn't the ticket that is wrong

_BOARD = re.compile(r"[a-z0-9-]{0,40}")
_SERIAL = re.compile(r"[0-9A-Za-z._:-]{0,64}")
_ACCOUNT = re.compile(r"[0-9A-Za-z._-]{1,64}")


def fingerprint_words(digest: Digest) -> tuple[str, ...]:
    """Six words for a digest's first 66 bits, for two people to compare by voice."""
    number = int.from_bytes(digest.raw, "big")
    shifts = range(256 - 11, 256 - 11 * (WORDS_SHOWN + 1), -11)
    return tuple(WORDS[number >> shift & 2047] for shift in shifts)


def clean_serial(text: str) -> str:
    """A board's serial number as messages spell it: what else it has is left out."""
    return "".join(c for c in text if _SERIAL.fullmatch(c))[:64]


def _board(board: str, serial: str) -> None:
    check(bool(_BOARD.fullmatch(board)), f"board {board[:40]!r}: want [a-z0-9-], at most 40")
    check(bool(_SERIAL.fullmatch(serial)), f"serial {serial[:40]!r}: want [0-9A-Za-z._:-], 64")


def _brokers(brokers: Sequence[str], ca: bytes) -> None:
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


def _account(user: str, password: str) -> None:
    check(bool(_ACCOUNT.fullmatch(user)), "broker account: bad name")
    check(bool(_ACCOUNT.fullmatch(password)), "broker account: bad password")


def _token(token: bytes) -> None:
    check(len(token) == TOKEN_LENGTH, f"a token's number has {TOKEN_LENGTH} bytes")


# --- the ticket --------------------------------------------------------------------------------


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
        _token(self.token)
        check(len(self.secret) == SECRET_LENGTH, f"a token's secret has {SECRET_LENGTH} bytes")
        _board(self.board, self.serial)
        _brokers(self.brokers, self.ca)
        _account(self.user, self.password)
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
    manifest = open_signed(OwnerManifest, signed_manifest, owner)
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


# --- the exchange ------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnrolRequest(Message):
    """Device to coordinator: this is who I want to be. Said again, it is the same to the bit."""

    TAG: ClassVar[int] = 61
    CEILING: ClassVar[int] = 8 * KIB

    fleet: FleetId
    token: bytes
    suite: str
    name: DeviceId
    verify_key: bytes
    kem_key: bytes  # made for this request, for the grant to be sealed to
    board: str
    serial: str
    manifest: Digest  # of the owner manifest that the device has
    nonce: bytes

    def __post_init__(self) -> None:
        _token(self.token)
        _board(self.board, self.serial)
        check(self.suite == DEFAULT.name, f"no suite {self.suite[:40]!r}", Reason.WRONG_SUITE)
        check(len(self.verify_key) == DEFAULT.verify_key_length, "verify key: bad length")
        check(len(self.kem_key) == DEFAULT.kem_public_length, "KEM key: bad length")
        check(len(self.nonce) == NONCE_LENGTH, "request: bad nonce")

    @property
    def digest(self) -> Digest:
        """What challenge, proof and grant name the request by."""
        return Digest.of(b"qflare/1/enrol-request\0", self.to_bytes())

    @property
    def key(self) -> VerifyKey:
        """The device's key; its fingerprint is what people compare."""
        return VerifyKey.parse(DEFAULT, self.verify_key)


@dataclass(frozen=True)
class EnrolChallenge(Message):
    """Coordinator to device, signed: prove it, to me, now."""

    TAG: ClassVar[int] = 62
    CEILING: ClassVar[int] = 512
    CONTEXT: ClassVar[str] = "enrol-challenge"

    fleet: FleetId
    token: bytes
    request: Digest
    nonce: bytes

    def __post_init__(self) -> None:
        _token(self.token)
        check(len(self.nonce) == NONCE_LENGTH, "challenge: bad nonce")


@dataclass(frozen=True)
class EnrolProof(Message):
    """Device to coordinator: the request once more, and that I know the secret and hold the key."""

    TAG: ClassVar[int] = 63
    CEILING: ClassVar[int] = 16 * KIB
    CONTEXT: ClassVar[str] = "enrol-proof"

    request: EnrolRequest
    nonce: bytes  # of the challenge
    mac: bytes  # HMAC-SHA256 by the token's secret
    signature: bytes  # by the device's key

    def __post_init__(self) -> None:
        check(len(self.nonce) == NONCE_LENGTH, "proof: bad nonce")
        check(len(self.mac) == 32, "proof: bad MAC")
        check(len(self.signature) == DEFAULT.signature_length, "proof: bad signature")

    @classmethod
    def make(
        cls, request: EnrolRequest, challenge: EnrolChallenge, secret: bytes, key: SigningKey
    ) -> Self:
        """Answer `challenge`; raise PeerFault(WRONG_DIGEST) if it is about another request."""
        same = (challenge.fleet, challenge.token, challenge.request)
        ours = (request.fleet, request.token, request.digest)
        check(same == ours, "a challenge for another request", Reason.WRONG_DIGEST)
        words = _words(request, challenge.nonce)
        mac = hmac.digest(secret, words, "sha256")
        return cls(request, challenge.nonce, mac, key.sign(cls.CONTEXT, words).raw)

    def verify(self, secret: bytes) -> None:
        """Raise PeerFault(BAD_PROOF) without the secret, BAD_SIGNATURE without the key."""
        words = _words(self.request, self.nonce)
        good = hmac.compare_digest(hmac.digest(secret, words, "sha256"), self.mac)
        check(good, "whoever made this doesn't know the ticket's secret", Reason.BAD_PROOF)
        key = self.request.key
        key.verify(self.CONTEXT, words, Signature.parse(key.suite, self.signature))


def _words(request: EnrolRequest, nonce: bytes) -> bytes:
    return codec.encode(["qflare/1/enrol-proof", request.digest.raw, nonce])


@dataclass(frozen=True)
class EnrolGrant(Message):
    """Coordinator to device, signed, then sealed: you are in, and this is what you need."""

    TAG: ClassVar[int] = 64
    CEILING: ClassVar[int] = OwnerManifest.CEILING + 64 * KIB
    CONTEXT: ClassVar[str] = "enrol-grant"

    fleet: FleetId
    name: DeviceId
    request: Digest
    certificate: bytes  # DER
    brokers: tuple[str, ...]
    ca: bytes  # PEM, as in the ticket
    user: str
    password: str = field(repr=False)
    owner_key: bytes
    manifest: Digest
    newer_manifest: bytes  # signed; empty if the request named the one that stands
    issued_at: int  # Unix seconds

    def __post_init__(self) -> None:
        _brokers(self.brokers, self.ca)
        _account(self.user, self.password)


class Refusal(StrEnum):
    """Why there is no grant (yet)."""

    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"
    WRONG_BOARD = "wrong_board"
    WRONG_SERIAL = "wrong_serial"
    WRONG_NAME = "wrong_name"
    NAME_TAKEN = "name_taken"
    BAD_PROOF = "bad_proof"
    BAD_KEY = "bad_key"
    DENIED = "denied"
    CLOCK = "clock"
    RATE = "rate"
    AWAITING = "awaiting_approval"

    @property
    def final(self) -> bool:
        """Would asking again be in vain?"""
        return self not in (Refusal.RATE, Refusal.AWAITING, Refusal.CLOCK)


@dataclass(frozen=True)
class EnrolRefused(Message):
    """Coordinator to device, signed."""

    TAG: ClassVar[int] = 65
    CEILING: ClassVar[int] = 512
    CONTEXT: ClassVar[str] = "enrol-refused"

    fleet: FleetId
    token: bytes
    request: Digest
    reason: Refusal
    retry_s: int  # when to ask again; 0 where that is in vain

    def __post_init__(self) -> None:
        _token(self.token)
        check(0 <= self.retry_s <= 86_400, "refusal: retry outside a day")


class Kind(StrEnum):
    """What an answer holds."""

    CHALLENGE = "challenge"  # an EnrolChallenge, signed
    REFUSED = "refused"  # an EnrolRefused, signed
    GRANT = "grant"  # an EnrolGrant, signed and then sealed


@dataclass(frozen=True)
class EnrolAnswer(Message):
    """Everything that the coordinator says to a device that enrols."""

    TAG: ClassVar[int] = 66
    CEILING: ClassVar[int] = EnrolGrant.CEILING + 16 * KIB

    kind: Kind
    body: bytes


def seal_grant(grant: EnrolGrant, request: EnrolRequest, key: SigningKey, aead: Aead) -> bytes:
    """Sign, then seal to the request's own KEM key."""
    kem = KemPublicKey.parse(key.suite, request.kem_key)
    return kem.seal(sign(grant, key), _grant_info(request), aead=aead)


def open_grant(
    sealed: bytes, request: EnrolRequest, kem: KemPrivateKey, coordinator: VerifyKey
) -> EnrolGrant:
    """Open what was sealed to this request, and verify who signed it; raise PeerFault."""
    grant = open_signed(EnrolGrant, kem.open(sealed, _grant_info(request)), coordinator)
    check(grant.fleet == request.fleet, f"grant for {grant.fleet}", Reason.WRONG_FLEET)
    check(grant.request == request.digest, "grant of another request", Reason.WRONG_DIGEST)
    check(grant.name == request.name, f"grant for {grant.name}", Reason.BAD_VALUE)
    return grant


def _grant_info(request: EnrolRequest) -> bytes:
    return codec.encode(["qflare/1/enrol-grant", request.token, request.digest.raw])


def suite_of(manifest: OwnerManifest) -> Suite:
    """The suite of every key in an enrolment; raise PeerFault if the fleet has another."""
    check(manifest.suite == DEFAULT.name, f"no suite {manifest.suite[:40]!r}", Reason.WRONG_SUITE)
    return DEFAULT
