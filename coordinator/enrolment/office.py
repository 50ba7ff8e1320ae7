"""What the coordinator answers to a device that enrols. Everything that comes in is untrusted.

Between a request and its proof nothing is kept: the challenge is derived from the request, and the
proof brings the request again. So a flood costs processor time, which is rationed, and no memory.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from coordinator.enrolment.judge import Claim, Token, judge
from coordinator.enrolment.keyring import Keyring
from coordinator.enrolment.register import Granted, Register
from coordinator.limiter import Kind as Limited
from coordinator.limiter import Limiter
from qflare.crypto.certificates import verify_device
from qflare.crypto.issuing import issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import Aead
from qflare.enrolment import (
    CertificateRenewed,
    EnrolAnswer,
    EnrolChallenge,
    EnrolGrant,
    EnrolProof,
    EnrolRefused,
    EnrolRequest,
    Kind,
    Refusal,
    TicketTerms,
    issue_ticket,
    seal_grant,
)
from qflare.envelope import Signable, sign
from qflare.faults import PeerFault, Reason
from qflare.messages import parse_any
from qflare.names import DeviceId, Digest, FleetId
from qflare.record import check
from qflare.topics import token_user

AWAIT_S = 5  # when a device that waits for the operator asks again
RATE_S = 20
CLOCK_RETRY_S = 300


@dataclass(frozen=True)
class Signer:
    """In whose name tickets are made and devices are let in."""

    fleet: FleetId
    key: SigningKey = field(repr=False)  # the coordinator's
    manifest: bytes = field(repr=False)  # the owner's, signed
    manifest_digest: Digest
    owner_key: bytes = field(repr=False)  # raw


@dataclass(frozen=True)
class Terms:
    """What devices are granted."""

    ca_key: SigningKey = field(repr=False)
    ca: bytes = field(repr=False)  # DER
    days: int
    brokers: tuple[str, ...]
    broker_ca: bytes = field(repr=False)  # PEM, or empty
    auto: bool


@dataclass(frozen=True)
class Reply:
    """An answer to publish; a grant goes out only once the broker knows the account."""

    token: bytes
    payload: bytes = field(repr=False)
    grant: bool = False
    note: str = ""  # for the log
    name: str = ""


class Turn(Enum):
    """What becomes of a message before anybody reads it."""

    TAKEN = "taken"
    TOO_OFTEN = "too often"  # read it, and say so
    DROPPED = "dropped"


class Door:
    """Rations messages: each ticket's first, so that one that floods takes nobody else's share."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._limiter = Limiter()

    def turn(self, token: bytes, now: float) -> Turn:
        """May a message of this ticket be read now?"""
        whose = DeviceId(token.hex())
        turn = Turn.TAKEN
        if not self._limiter.allow(whose, Limited.ENROL, now):
            self.counters["too_often"] += 1
            if not self._limiter.allow(whose, Limited.ENROL_TOLD, now):
                return Turn.DROPPED
            turn = Turn.TOO_OFTEN
        if not self._limiter.allow(None, Limited.ENROL_ALL, now):
            self.counters["dropped"] += 1
            return Turn.DROPPED
        return turn


class Office:
    """Answers one message at a time; called from one thread."""

    def __init__(self, signer: Signer, terms: Terms, keyring: Keyring, register: Register) -> None:
        self.counters: Counter[str] = Counter()
        self._signer, self._terms = signer, terms
        self._keyring, self._register = keyring, register

    def handle(
        self, token: bytes, payload: bytes, now: float, *, too_often: bool = False
    ) -> Reply | None:
        """The answer to one message on a ticket's topic; None for what gets none."""
        try:
            message = parse_any(payload, EnrolRequest, EnrolProof)
            request = message if isinstance(message, EnrolRequest) else message.request
            check(request.token == token, "of another ticket", Reason.WRONG_TOPIC)
            check(request.fleet == self._signer.fleet, "another fleet", Reason.WRONG_FLEET)
        except PeerFault as fault:
            self.counters[f"refused_{fault.reason}"] += 1
            return None
        if too_often:
            return self._refuse(request, Refusal.RATE)
        if isinstance(message, EnrolProof):
            return self._proof(message, now)
        return self._request(request, now)

    def _request(self, request: EnrolRequest, now: float) -> Reply:
        refusal = judge(*self._register.find(request.token), request, now)
        return self._refuse(request, refusal) if refusal else self._challenge(request)

    def _proof(self, proof: EnrolProof, now: float) -> Reply:
        request = proof.request
        if proof.nonce != self._keyring.nonce(request.token, request.digest):
            self.counters["stale_challenge"] += 1
            return self._challenge(request)  # from before we were started anew, or not ours
        try:
            proof.verify(self._keyring.token_secret(request.token))
        except PeerFault:
            return self._refuse(request, Refusal.BAD_PROOF)
        try:
            outcome = self._register.settle(
                request, now, auto=self._terms.auto, issue=lambda: self._issue(request, now)
            )
        except PeerFault:  # a KEM key that nothing can be sealed to; nothing was written
            return self._refuse(request, Refusal.BAD_KEY)
        if isinstance(outcome, Refusal):
            return self._refuse(request, outcome)
        self.counters["granted"] += 1
        return self._answer(request, Kind.GRANT, outcome.sealed, "device enrolled")

    def _issue(self, request: EnrolRequest, now: float) -> Granted:
        signer, terms = self._signer, self._terms
        when = datetime.fromtimestamp(now, UTC)
        certificate = issue_device(
            terms.ca_key, terms.ca, request.name, request.key, when, terms.days
        )
        stands = signer.manifest_digest
        grant = EnrolGrant(
            fleet=signer.fleet,
            name=request.name,
            request=request.digest,
            certificate=certificate,
            brokers=terms.brokers,
            ca=terms.broker_ca,
            user=str(request.name),
            password=self._keyring.device_password(request.token, request.name),
            owner_key=signer.owner_key,
            manifest=stands,
            newer_manifest=b"" if request.manifest == stands else signer.manifest,
            issued_at=int(now),
        )
        # Every board does ChaCha20 fast; not every one has AES in its processor.
        return Granted(certificate, seal_grant(grant, request, signer.key, Aead.CHACHA20_POLY1305))

    def renew(self, device: DeviceId, now: float) -> bytes | None:
        """A certificate that lasts longer, for a device that is still let in; else None.

        The one that was issued last is given again while it has most of its time before it: the
        device may not have got it.
        """
        terms, when = self._terms, datetime.fromtimestamp(now, UTC)

        def issue(claim: Claim) -> bytes:
            last = claim.certificate or b""
            with suppress(PeerFault):
                found = verify_device(last, [terms.ca], when, self._signer.fleet, frozenset())
                if found.not_after - when > (found.not_after - found.not_before) * (2 / 3):
                    return last
            self.counters["renewed"] += 1
            return issue_device(terms.ca_key, terms.ca, device, claim.body.key, when, terms.days)

        certificate = self._register.renew(device, issue)
        return None if certificate is None else CertificateRenewed(certificate).to_bytes()

    def _challenge(self, request: EnrolRequest) -> Reply:
        nonce = self._keyring.nonce(request.token, request.digest)
        self.counters["challenged"] += 1
        challenge = EnrolChallenge(request.fleet, request.token, request.digest, nonce)
        return self._answer(request, Kind.CHALLENGE, self._signed(challenge))

    def _refuse(self, request: EnrolRequest, reason: Refusal) -> Reply:
        self.counters[f"refused_{reason}"] += 1
        again = {
            Refusal.AWAITING: AWAIT_S,
            Refusal.RATE: RATE_S,
            Refusal.CLOCK: CLOCK_RETRY_S,
        }.get(reason, 0)
        refused = EnrolRefused(request.fleet, request.token, request.digest, reason, again)
        note = "" if reason in (Refusal.AWAITING, Refusal.RATE) else f"enrolment refused: {reason}"
        return self._answer(request, Kind.REFUSED, self._signed(refused), note)

    def _signed(self, message: Signable) -> bytes:
        return sign(message, self._signer.key)

    def _answer(self, request: EnrolRequest, kind: Kind, body: bytes, note: str = "") -> Reply:
        payload = EnrolAnswer(kind, body).to_bytes()
        return Reply(request.token, payload, kind is Kind.GRANT, note, str(request.name))


def make_ticket(
    token: Token, signer: Signer, keyring: Keyring, brokers: tuple[str, ...], ca: bytes
) -> bytes:
    """The bytes that a technician carries for `token`."""
    return issue_ticket(
        TicketTerms(
            fleet=signer.fleet,
            token=token.id,
            secret=keyring.token_secret(token.id),
            name=DeviceId.parse(token.name) if token.name else None,
            board=token.board,
            serial=token.serial,
            brokers=brokers,
            ca=ca,
            user=token_user(token.id),
            password=keyring.token_password(token.id),
            owner_key=signer.owner_key,
            issued_at=int(token.created_at),
            expires_at=int(token.expires_at),
        ),
        signer.manifest,
        signer.key,
    )
