"""How a device joins a fleet: a ticket, a request, a challenge, a proof, a grant. Pure.

A technician carries a `Ticket`, signed by the coordinator's key together with the owner manifest
that vouches for that key. The device makes its own keys and asks (`EnrolRequest`); the coordinator
answers with a nonce (`EnrolChallenge`); the device proves that it knows the ticket's secret and
holds the key (`EnrolProof`: HMAC-SHA256, RFC 2104, and an ML-DSA signature over the same words), so
that the secret itself never travels. The `EnrolGrant` is sealed to a KEM key that was made for this
one request. Whatever the coordinator says is signed by its key.
"""

import hmac
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Self

from qflare import codec
from qflare.crypto.keys import KemPrivateKey, KemPublicKey, Signature, SigningKey, VerifyKey
from qflare.crypto.suites import DEFAULT, Aead, Suite
from qflare.envelope import open_signed, sign
from qflare.faults import Reason
from qflare.messages import KIB, Message
from qflare.names import DeviceId, Digest, FleetId
from qflare.policy import OwnerManifest
from qflare.record import check
from qflare.ticket import (
    BROKERS_MAX,
    CA_MAX,
    LIFE_MAX_S,
    SECRET_LENGTH,
    TICKET_MAX,
    TOKEN_LENGTH,
    Ticket,
    TicketTerms,
    check_account,
    check_board,
    check_brokers,
    check_token,
    clean_serial,
    issue_ticket,
    parse_ticket,
    peek_terms,
)
from qflare.words import WORDS

__all__ = [
    "BROKERS_MAX",
    "CA_MAX",
    "LIFE_MAX_S",
    "NONCE_LENGTH",
    "SECRET_LENGTH",
    "TICKET_MAX",
    "TOKEN_LENGTH",
    "CertificateRenewed",
    "EnrolAnswer",
    "EnrolChallenge",
    "EnrolGrant",
    "EnrolProof",
    "EnrolRefused",
    "EnrolRequest",
    "Kind",
    "Refusal",
    "Ticket",
    "TicketTerms",
    "clean_serial",
    "fingerprint_words",
    "issue_ticket",
    "open_grant",
    "parse_ticket",
    "peek_terms",
    "seal_grant",
    "suite_of",
]

NONCE_LENGTH = 32
WORDS_SHOWN = 6  # of 11 bits each: 66 bits


def fingerprint_words(digest: Digest) -> tuple[str, ...]:
    """Six words for a digest's first 66 bits, for two people to compare by voice."""
    number = int.from_bytes(digest.raw, "big")
    shifts = range(256 - 11, 256 - 11 * (WORDS_SHOWN + 1), -11)
    return tuple(WORDS[number >> shift & 2047] for shift in shifts)


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
        check_token(self.token)
        check_board(self.board, self.serial)
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
        check_token(self.token)
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
        check_brokers(self.brokers, self.ca)
        check_account(self.user, self.password)


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
        check_token(self.token)
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


@dataclass(frozen=True)
class CertificateRenewed(Message):
    """Coordinator to device: the same name and key for longer. The CA's signature is all it needs.

    Said when a device greets with a certificate that is in its last third or has ended.
    """

    TAG: ClassVar[int] = 67
    CEILING: ClassVar[int] = 16 * KIB

    certificate: bytes  # DER


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
