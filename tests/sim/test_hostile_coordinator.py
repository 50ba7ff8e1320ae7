"""Each lie of a coordinator is refused by every device with the right word, nothing is trained on
it, and the honest round after it works.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enclave_wire import Configure, OpenRound, Predecessor, Refused, Release, RoundOpened
from qflare.envelope import sign
from qflare.faults import Reason
from qflare.messages import ZERO, Checkpoint, Evidence, cohort_digest
from qflare.names import DeviceId, Digest
from qflare.topics import All, Down, DownTopic
from qflare.transfer import ConsistencyAnswer
from tests.sim.broker import COORDINATOR
from tests.sim.liar import Liar, evidence
from tests.sim.outcome import check_outcome
from tests.unit.coordinator_rig import FLEET


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.sim.run(made.sim.settled, 400)
    check_outcome(made.sim)
    for edge in made.sim.edges.values():
        assert edge.counters["inclusion_verified"] == 3


def test_the_tests_own_offer_would_be_taken() -> None:
    """So that whatever is refused below is refused for the lie in it."""
    liar = Liar()
    liar.say_signed(All.OFFER, liar.offer())
    liar.sim.rest(2.0)
    assert all(edge.trained == [1, 2, 3] for edge in liar.sim.edges.values())


def test_an_old_model_again(liar: Liar) -> None:
    liar.say(All.MODEL, liar.heard(All.MODEL)[0])
    liar.check_refused(Reason.ROLLBACK)


def test_a_round_on_an_old_model(liar: Liar) -> None:
    first = liar.receipts[0]
    claims = liar.claims(step=2, model=first.model, state=first.state, receipt=first.digest)
    liar.say_signed(All.OFFER, liar.offer(claims))
    liar.check_refused(Reason.ROLLBACK)


def test_a_round_on_the_genesis_model(liar: Liar) -> None:
    genesis = liar.sim.world.manifest.genesis.weights
    claims = liar.claims(step=1, model=genesis, state=ZERO, receipt=ZERO)
    liar.say_signed(All.OFFER, liar.offer(claims))
    liar.check_refused(Reason.ROLLBACK)


def test_a_round_on_other_weights(liar: Liar) -> None:
    liar.say_signed(All.OFFER, liar.offer(liar.claims(model=Digest.of(b"poisoned"))))
    liar.check_refused(Reason.WRONG_DIGEST)


def test_an_old_offer_again(liar: Liar) -> None:
    liar.say(All.OFFER, liar.heard(All.OFFER)[0])
    liar.check_refused(Reason.WRONG_ROUND)


def test_a_second_offer_for_an_answered_round(liar: Liar) -> None:
    liar.say_signed(All.OFFER, liar.offer(liar.claims(round=2, step=2)))
    liar.check_refused(Reason.EQUIVOCATION)


def test_a_second_story_about_a_released_round(liar: Liar) -> None:
    """The same step with another model, by an enclave whose (worthless) evidence appraises."""
    key = SigningKey.generate(DEFAULT)
    claims = liar.claims(
        round=2,
        step=2,
        model=liar.receipts[1].previous_model,
        state=ZERO,
        receipt=liar.receipts[1].previous_receipt,
        signing_key=key.verify_key.raw,
    )
    receipt = replace(
        liar.receipts[1], claims=claims.digest, epoch=claims.epoch, model=Digest.of(b"another")
    )
    ready = replace(
        liar.models[1], claims=claims, evidence=evidence(claims), receipt=sign(receipt, key)
    )
    liar.say_signed(All.MODEL, ready)
    liar.check_refused(Reason.EQUIVOCATION)


def test_a_model_that_another_key_signed(liar: Liar) -> None:
    ready = replace(liar.models[1], receipt=sign(liar.receipts[1], SigningKey.generate(DEFAULT)))
    liar.say_signed(All.MODEL, ready)
    liar.check_refused(Reason.BAD_SIGNATURE)


def test_a_model_of_too_few(liar: Liar) -> None:
    """Released with one update, by an enclave that doesn't keep to the owner's floor."""
    key = SigningKey.generate(DEFAULT)
    claims = liar.claims(signing_key=key.verify_key.raw)
    receipt = replace(
        liar.receipts[1],
        round=3,
        epoch=claims.epoch,
        step=3,
        claims=claims.digest,
        previous_receipt=claims.receipt,
        previous_model=claims.model,
        model=Digest.of(b"another"),
        admitted=1,
    )
    ready = replace(
        liar.models[1], claims=claims, evidence=evidence(claims), receipt=sign(receipt, key)
    )
    liar.say_signed(All.MODEL, ready)
    liar.check_refused(Reason.BELOW_MIN_COHORT)


@pytest.mark.parametrize(
    "change",
    [
        {"clip_norm": 4.1},
        {"weight_cap": 1001},
        {"min_cohort": 1},
        {"codec": "q4z"},
        {"suite": "none"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_policy_beyond_the_bounds(liar: Liar, change: dict[str, object]) -> None:
    policy = replace(liar.offers[0].policy, **change)  # type: ignore[arg-type]
    offer = liar.offer(liar.claims(policy=policy.digest), policy=policy)
    liar.say_signed(All.OFFER, offer)
    wrong_suite = change.keys() == {"suite"}
    liar.check_refused(Reason.WRONG_SUITE if wrong_suite else Reason.POLICY_NOT_ALLOWED)


def test_evidence_for_other_claims(liar: Liar) -> None:
    liar.say_signed(All.OFFER, liar.offer(evidence=evidence(liar.claims(epoch=99))))
    liar.check_refused(Reason.EVIDENCE_REFUSED)


def test_evidence_of_other_code(liar: Liar) -> None:
    other = evidence(liar.claims(), Digest.of(b"code that the owner doesn't know"))
    liar.say_signed(All.OFFER, liar.offer(evidence=other))
    liar.check_refused(Reason.EVIDENCE_REFUSED)


def test_evidence_of_an_unknown_kind(liar: Liar) -> None:
    liar.say_signed(All.OFFER, liar.offer(evidence=Evidence("trust-me", b"")))
    liar.check_refused(Reason.EVIDENCE_REFUSED)


def test_a_kem_key_of_its_own(liar: Liar) -> None:
    """Under the enclave's own evidence: the one who could then open every update."""
    honest = liar.claims()
    claims = replace(honest, kem_key=liar.offers[0].claims.kem_key)
    liar.say_signed(All.OFFER, liar.offer(claims, evidence=evidence(honest)))
    liar.check_refused(Reason.EVIDENCE_REFUSED)


def test_a_manifest_of_its_own(liar: Liar) -> None:
    """Signed by the coordinator, which isn't the owner."""
    world = liar.sim.world
    liar.say(All.MANIFEST, sign(replace(world.manifest, version=2), world.coordinator))
    liar.check_refused(Reason.BAD_SIGNATURE)


def test_another_manifest_of_the_same_version(liar: Liar) -> None:
    world = liar.sim.world
    liar.say(All.MANIFEST, sign(replace(world.manifest, expires=2**41), world.owner))
    liar.check_refused(Reason.ROLLBACK)


def test_claims_under_another_manifest(liar: Liar) -> None:
    liar.say_signed(All.OFFER, liar.offer(liar.claims(manifest=Digest.of(b"another"))))
    liar.check_refused(Reason.WRONG_OFFER)


def test_a_forked_ledger_of_the_same_size(liar: Liar) -> None:
    liar.say_signed(All.OFFER, liar.offer(checkpoint=Checkpoint(2, Digest.of(b"fork"))))
    liar.check_refused(Reason.EQUIVOCATION)


def test_a_shorter_ledger(liar: Liar) -> None:
    liar.say_signed(All.OFFER, liar.offer(checkpoint=liar.models[0].checkpoint))
    liar.check_refused(Reason.ROLLBACK)


def test_a_forked_ledger_that_is_longer(liar: Liar) -> None:
    """No proof can lead there; one is given all the same."""
    offer = liar.offer(checkpoint=Checkpoint(5, Digest.of(b"fork")))
    liar.say_signed(All.OFFER, offer)
    for name in liar.sim.edges:
        answer = ConsistencyAnswer(2, 5, (Digest.of(b"a"), Digest.of(b"b"), Digest.of(b"c")))
        liar.sim.say(COORDINATOR, DownTopic(FLEET, name, Down.ANSWER), answer.to_bytes())
    liar.check_refused(Reason.BAD_PROOF)


def test_a_cohort_that_was_not_drawn(liar: Liar) -> None:
    """Named in the offer, and not what the claims say."""
    cohort = (DeviceId("dev-0"), DeviceId("dev-1"))
    claims = liar.claims(cohort=cohort_digest(cohort))
    forged = liar.offer(claims, cohort=cohort, evidence=evidence(liar.claims()))
    liar.say_signed(All.OFFER, forged)
    liar.check_refused(Reason.EVIDENCE_REFUSED)


def test_a_receipt_for_nobody(liar: Liar) -> None:
    """Telling a device that something else was accepted settles nothing."""
    book = liar.sim.coordinator.machine.book
    for name in liar.sim.edges:
        _, payload = book.receipt(name, Digest.of(b"another"), 2, "")
        liar.sim.say(COORDINATOR, DownTopic(FLEET, name, Down.RECEIPT), payload)
    liar.check_refused(Reason.WRONG_DIGEST)


def test_the_enclave_does_not_release_below_the_minimum(liar: Liar) -> None:
    """Nor does it open a round twice, go back, or take a policy beyond the owner's bounds."""
    sim = liar.sim
    last, models = liar.models[-1], sim.coordinator.models
    state = models.read(liar.receipts[-1].state)

    def ask(request: Configure | OpenRound | Release) -> object:
        reply = sim.enclave.answer(request.to_bytes())
        assert reply is not None
        for kind in (RoundOpened, Refused):
            if reply[2] == kind.TAG:
                return kind.parse(reply)
        raise AssertionError(reply[:3])

    policy = sim.settings.policy
    given = Predecessor(last.receipt, last.claims)
    opening = OpenRound(3, 0, policy, (), given, models.read(liar.receipts[-1].model), state)
    genesis = replace(opening, predecessor=None)
    for request, reason in (
        (replace(opening, policy=replace(policy, min_cohort=1)), Reason.POLICY_NOT_ALLOWED),
        (replace(opening, policy=replace(policy, clip_norm=9.0)), Reason.POLICY_NOT_ALLOWED),
        (replace(opening, weights=bytes(len(opening.weights))), Reason.WRONG_DIGEST),
        (replace(opening, state=b""), Reason.WRONG_DIGEST),
        (replace(opening, round=2), Reason.WRONG_ROUND),
        (genesis, Reason.ROLLBACK),
        (Release(3), Reason.ROUND_CLOSED),
    ):
        reply = ask(request)
        assert isinstance(reply, Refused), request
        assert reply.reason == reason
    assert isinstance(ask(opening), RoundOpened)
    again = ask(replace(opening, candidates=tuple(sim.edges)))
    assert isinstance(again, Refused)
    assert again.reason == Reason.EQUIVOCATION
    below = ask(Release(3))
    assert isinstance(below, Refused)
    assert below.reason == Reason.BELOW_MIN_COHORT
