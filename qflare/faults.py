"""Two kinds of failure: ours and theirs.

`PeerFault` says that bytes from outside broke a rule. It is the one exception by which refused
input leaves a parser or a verifier, so that "any garbage gives PeerFault and nothing else" can be
a law. `LocalFault` says that we broke a rule ourselves, or that this machine did.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why input from outside was refused. The value is the word used in logs and metrics."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    UNKNOWN_FIELD = "unknown_field"
    BAD_VALUE = "bad_value"
    WRONG_FLEET = "wrong_fleet"
    WRONG_TOPIC = "wrong_topic"
    WRONG_SUITE = "wrong_suite"
    BAD_SIGNATURE = "bad_signature"
    BAD_CERTIFICATE = "bad_certificate"
    EXPIRED_CERTIFICATE = "expired_certificate"
    EXPIRED_MANIFEST = "expired_manifest"
    EXPIRED_TICKET = "expired_ticket"
    REVOKED = "revoked"
    UNKNOWN_DEVICE = "unknown_device"
    NOT_INVITED = "not_invited"
    CANNOT_OPEN = "cannot_open"
    WRONG_ROUND = "wrong_round"
    STALE_EPOCH = "stale_epoch"
    WRONG_OFFER = "wrong_offer"
    ROUND_CLOSED = "round_closed"
    DUPLICATE = "duplicate"
    COHORT_FULL = "cohort_full"
    BELOW_MIN_COHORT = "below_min_cohort"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    NORM_TOO_LARGE = "norm_too_large"
    BAD_WEIGHT = "bad_weight"
    BAD_TALLIES = "bad_tallies"
    WRONG_DIGEST = "wrong_digest"
    RATE_LIMITED = "rate_limited"
    POLICY_NOT_ALLOWED = "policy_not_allowed"
    EVIDENCE_REFUSED = "evidence_refused"
    ROLLBACK = "rollback"
    EQUIVOCATION = "equivocation"
    BAD_PROOF = "bad_proof"


class PeerFault(Exception):
    """Somebody else broke a rule; `reason` is for machines, `detail` for people."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class LocalFault(Exception):
    """We broke a rule ourselves, or this machine did; the message says what to do next."""
