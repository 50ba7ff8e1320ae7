"""May this request have this ticket's grant? Pure."""

from dataclasses import dataclass
from enum import StrEnum

from qflare.enrolment import EnrolRequest, Refusal
from qflare.names import DeviceId, Digest

CLOCK_S = 3600.0  # a ticket from further in the future than this, and it is our clock


class Status(StrEnum):
    """How an enrolment stands."""

    AWAITING = "awaiting"  # the operator's word
    APPROVED = "approved"  # granted as soon as the device asks again
    DENIED = "denied"
    GRANTED = "granted"
    CLOSED = "closed"  # by the operator, or another device took its place


LIVE = (Status.AWAITING, Status.APPROVED, Status.GRANTED)


@dataclass(frozen=True)
class Token:
    """A ticket as the database has it; an empty name, board or serial is any."""

    id: bytes
    created_at: float
    expires_at: float
    name: str = ""
    board: str = ""
    serial: str = ""
    replace: bool = False
    revoked_at: float | None = None


@dataclass(frozen=True)
class Claim:
    """The request that a ticket was used for."""

    token: bytes
    request: Digest
    body: EnrolRequest
    status: Status
    asked_at: float
    decided_at: float | None = None
    certificate: bytes | None = None
    sealed: bytes | None = None
    former: bytes | None = None  # the certificate before this one, which may still be valid

    @property
    def name(self) -> DeviceId:
        return self.body.name

    @property
    def fingerprint(self) -> Digest:
        return self.body.key.fingerprint


def judge(
    token: Token | None, claim: Claim | None, request: EnrolRequest, now: float
) -> Refusal | None:
    """Why not, before and after the proof; None: nothing speaks against it.

    The same request may come again for as long as it is alive, also when the ticket has expired
    or was revoked meanwhile: it is the same device.
    """
    if token is None:
        return Refusal.UNKNOWN
    if claim is not None:
        if claim.request != request.digest:
            return Refusal.USED
        ended = {Status.DENIED: Refusal.DENIED, Status.CLOSED: Refusal.REVOKED}
        return ended.get(claim.status)
    if token.revoked_at is not None:
        return Refusal.REVOKED
    if now >= token.expires_at:
        return Refusal.EXPIRED
    if now < token.created_at - CLOCK_S:
        return Refusal.CLOCK
    if token.name and token.name != request.name:
        return Refusal.WRONG_NAME
    if token.board and token.board != request.board:
        return Refusal.WRONG_BOARD
    if token.serial and token.serial != request.serial:
        return Refusal.WRONG_SERIAL
    return None
