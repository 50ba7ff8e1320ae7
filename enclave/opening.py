"""May this round be opened? Where it starts from, and whom it invites."""

from dataclasses import dataclass

from qflare.cohort import choose
from qflare.crypto.keys import VerifyKey
from qflare.crypto.suites import parse_suite
from qflare.enclave_wire import OpenRound, Predecessor
from qflare.envelope import open_signed, peek_signed
from qflare.faults import PeerFault, Reason
from qflare.messages import COHORT_LISTED_MAX, ZERO, RoundReceipt
from qflare.names import DeviceId, Digest, parse_round
from qflare.policy import OwnerManifest
from qflare.record import check
from qflare.tensors import weights_from_bytes


@dataclass(frozen=True)
class Base:
    """What a round goes on from, by digests (ZERO: there is none)."""

    model: Digest
    state: Digest
    receipt: Digest
    step: int  # models released so far
    epoch: int  # of the receipt
    seed: Digest | None  # of the cohort; None: the chain's first


def check_opening(request: OpenRound, manifest: OwnerManifest, last: RoundReceipt | None) -> Base:
    """Verify an OpenRound against the owner's manifest and our own last receipt, if any.

    Raises PeerFault: POLICY_NOT_ALLOWED, WRONG_SUITE, ROLLBACK, EQUIVOCATION, WRONG_ROUND,
    WRONG_DIGEST, WRONG_SHAPE, NOT_FINITE, and for a predecessor of an enclave that we don't
    remember, what its signature raises.
    """
    parse_round(request.round)
    manifest.bounds.verify(request.policy)
    check(request.policy.suite == manifest.suite, "not the fleet's suite", Reason.WRONG_SUITE)
    receipt = _predecessor(request.predecessor, manifest, last)
    if receipt is None:
        base = Base(manifest.genesis.weights, ZERO, ZERO, 0, 0, None)
    else:
        check(request.round > receipt.round, "not after its receipt", Reason.WRONG_ROUND)
        base = Base(
            receipt.model, receipt.state, receipt.digest, receipt.step, receipt.epoch, receipt.seed
        )
    size = manifest.genesis.size
    state = Digest.of(request.state) if request.state else ZERO
    check(Digest.of(request.weights) == base.model, "other weights", Reason.WRONG_DIGEST)
    check(state == base.state, "other optimiser state", Reason.WRONG_DIGEST)
    weights_from_bytes(request.weights, size)
    if request.state:
        weights_from_bytes(request.state, size)
    return base


def choose_cohort(request: OpenRound, seed: Digest) -> tuple[DeviceId, ...]:
    """Draw the cohort; empty when there is no list of candidates, and every device may answer.

    Raises PeerFault(BELOW_MIN_COHORT) if the round could never be released.
    """
    if not request.candidates:
        return ()
    count = min(request.policy.max_cohort, COHORT_LISTED_MAX)
    cohort = choose(seed, request.candidates, count)
    if len(cohort) < request.policy.min_cohort:
        raise PeerFault(Reason.BELOW_MIN_COHORT, f"only {len(cohort)} devices to choose from")
    return cohort


def _predecessor(
    given: Predecessor | None, manifest: OwnerManifest, last: RoundReceipt | None
) -> RoundReceipt | None:
    if last is not None:
        if given is None:
            raise PeerFault(Reason.ROLLBACK, f"genesis after round {last.round}")
        receipt = peek_signed(RoundReceipt, given.receipt)
        if receipt.digest != last.digest:  # else it is, word for word, what we signed
            reason = Reason.ROLLBACK if receipt.round < last.round else Reason.EQUIVOCATION
            raise PeerFault(reason, f"not our last receipt, of round {last.round}")
        return last
    return None if given is None else _foreign(given, manifest)


def _foreign(given: Predecessor, manifest: OwnerManifest) -> RoundReceipt:
    """The receipt of an enclave that we don't remember: whole, and the devices' to believe."""
    suite = parse_suite(given.claims.suite)
    key = VerifyKey.parse(suite, given.claims.signing_key)
    receipt = open_signed(RoundReceipt, given.receipt, key)
    check(receipt.fleet == manifest.fleet, "another fleet's receipt", Reason.WRONG_FLEET)
    check(receipt.claims == given.claims.digest, "receipt of other claims", Reason.WRONG_OFFER)
    other = receipt.disagreement(given.claims)
    check(not other, f"receipt and claims disagree on the {other}", Reason.WRONG_ROUND)
    return receipt
