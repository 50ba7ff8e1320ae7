"""The device's half of an enrolment, without I/O: what to send, and what an answer means.

It asks, answers the challenge, and holds on until there is a grant or a refusal that is final.
Whatever was sent is sent again while no answer comes, so that a lost message, a broker that starts
anew or a coordinator that was killed costs time and nothing else.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.enrolment import (
    EnrolAnswer,
    EnrolChallenge,
    EnrolGrant,
    EnrolProof,
    EnrolRefused,
    EnrolRequest,
    Kind,
    Refusal,
    Ticket,
    open_grant,
)
from qflare.envelope import open_signed
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.record import check

RESEND_FIRST_S = 2.0
RESEND_LAST_S = 30.0

REMEDIES: Final = {
    Refusal.UNKNOWN: "the coordinator doesn't know this ticket; was it made by another one?",
    Refusal.USED: "the ticket was used by another device; take a fresh one, and ask the operator "
    "which device that was",
    Refusal.EXPIRED: "the ticket has expired; take a fresh one",
    Refusal.REVOKED: "the ticket was revoked by the operator; take a fresh one",
    Refusal.WRONG_BOARD: "the ticket is for another kind of board; take the one made for this",
    Refusal.WRONG_SERIAL: "the ticket is for another board (its serial number is in the ticket); "
    "take the one made for this",
    Refusal.WRONG_NAME: "the ticket is for another name; take the one made for this",
    Refusal.NAME_TAKEN: "another device has this name; the operator makes a ticket with another "
    "name, or with --replace if this board takes that one's place",
    Refusal.BAD_PROOF: "the coordinator can't verify the ticket's secret; take a fresh ticket",
    Refusal.BAD_KEY: "this device sent a key that nothing can be sealed to; remove the file "
    "`enrolling` and try again",
    Refusal.DENIED: "the operator refused this device; talk to them before you try again",
    Refusal.CLOCK: "the coordinator's clock is behind the ticket; tell the operator",
    Refusal.RATE: "too many devices enrol at this moment",
    Refusal.AWAITING: "the operator has to approve this device; read them the words",
}


class EnrolmentRefused(LocalFault):
    """The coordinator said no, for good; `reason` is for machines."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"enrolment refused ({reason}): {REMEDIES[reason]}")
        self.reason = reason


class Step(Enum):
    """How far it came; the value is for people."""

    ASKING = "asking the coordinator"
    PROVING = "proving who this is"
    WAITING = "waiting"
    DONE = "granted"


@dataclass(frozen=True)
class Keys:
    """The device's own key, and the one that was made for this request's grant."""

    device: SigningKey
    kem: KemPrivateKey


class Exchange:
    """Feed it answers and time; each call returns the payloads to publish."""

    def __init__(self, ticket: Ticket, request: EnrolRequest, keys: Keys) -> None:
        self.step = Step.ASKING
        self.grant: EnrolGrant | None = None
        self.pending: Refusal | None = None  # why it waits
        self.ignored = 0  # answers that weren't for us, or weren't the coordinator's
        self.heard_at: float | None = None  # when the coordinator last said something
        self._ticket, self.request, self._keys = ticket, request, keys
        self._coordinator = ticket.coordinator_key
        self._saying = request.to_bytes()
        self._again_s = RESEND_FIRST_S
        self._due = 0.0

    def connected(self, now: float) -> list[bytes]:
        """There is a connection: say what stands."""
        self._again_s = RESEND_FIRST_S
        return [] if self.step in (Step.WAITING, Step.DONE) else self._say(now)

    def tick(self, now: float) -> list[bytes]:
        """Say it again if it is time."""
        if self.step is Step.DONE or now < self._due:
            return []
        if self.step is Step.WAITING:
            self.step = Step.PROVING
        return self._say(now)

    def receive(self, payload: bytes, now: float) -> list[bytes]:
        """Take an answer; what isn't the coordinator's word on this request is left out.

        Raises EnrolmentRefused when there is nothing to wait for.
        """
        if self.step is Step.DONE:
            return []
        try:
            answer = EnrolAnswer.parse(payload)
            match answer.kind:
                case Kind.CHALLENGE:
                    return self._challenge(answer.body, now)
                case Kind.REFUSED:
                    return self._refused(answer.body, now)
                case Kind.GRANT:
                    return self._granted(answer.body, now)
        except PeerFault:
            self.ignored += 1
            return []

    def _say(self, now: float) -> list[bytes]:
        self._due = now + self._again_s
        self._again_s = min(2 * self._again_s, RESEND_LAST_S)
        return [self._saying]

    def _challenge(self, body: bytes, now: float) -> list[bytes]:
        challenge = open_signed(EnrolChallenge, body, self._coordinator)
        secret = self._ticket.terms.secret
        proof = EnrolProof.make(self.request, challenge, secret, self._keys.device)
        self.heard_at, self.step = now, Step.PROVING
        self._saying, self._again_s = proof.to_bytes(), RESEND_FIRST_S
        return self._say(now)

    def _refused(self, body: bytes, now: float) -> list[bytes]:
        refused = open_signed(EnrolRefused, body, self._coordinator)
        ours = (self.request.fleet, self.request.token, self.request.digest)
        same = (refused.fleet, refused.token, refused.request) == ours
        check(same, "a refusal of another request", Reason.WRONG_DIGEST)
        self.heard_at = now
        if refused.reason.final:
            raise EnrolmentRefused(refused.reason)
        self.pending, self.step = refused.reason, Step.WAITING
        self._due = now + max(1, refused.retry_s)
        self._again_s = RESEND_FIRST_S
        return []

    def _granted(self, body: bytes, now: float) -> list[bytes]:
        self.grant = open_grant(body, self.request, self._keys.kem, self._coordinator)
        self.heard_at, self.step = now, Step.DONE
        return []
