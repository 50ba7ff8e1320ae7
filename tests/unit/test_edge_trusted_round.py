"""Attacks on the device's verifier, each refused for its reason, and the honest way through."""

from dataclasses import replace
from typing import Any

import pytest

from edge_runtime.memory import Memory
from edge_runtime.trusted_model import TrustedModel, VerifiedModel
from edge_runtime.trusted_round import (
    CLOCKS_APART_S,
    NeedConsistency,
    NeedModel,
    Trust,
    TrustedRound,
    VerifiedRound,
)
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.messages import ZERO, Checkpoint
from qflare.names import DeviceId, Digest
from qflare.policy import AppraisalPolicy
from qflare.proofs import Tree
from tests.edge_lab import DEVICE, FLEET, NOW, POLICY, Lab, evidence, model
from tests.owner_kit import handed_over

OTHER = DeviceId.parse("dev-2")


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def trust(lab: Lab) -> Trust:
    made = Trust(lab.owner.verify_key, FLEET)
    made.take_manifest(lab.signed_manifest())
    return made


def judge(trust: Trust, offer: bytes, proof: Any = None, today: float = NOW) -> VerifiedRound:
    it = TrustedRound(trust, DEVICE)
    it.take_offer(offer)
    it.take_evidence(int(today))
    it.take_model()
    return it.take_ledger(proof)


def take(trust: Trust, ready: bytes, proof: Any = None) -> VerifiedModel:
    it = TrustedModel(trust)
    it.take_ready(ready)
    it.take_evidence()
    it.take_receipt()
    return it.take_ledger(proof)


def refused(reason: Reason) -> Any:
    return pytest.raises(PeerFault, match=rf"^{reason.value}")


def test_genesis_round_is_accepted(lab: Lab, trust: Trust) -> None:
    verdict = judge(trust, lab.signed_offer(1))
    assert verdict.invited
    assert verdict.offer.claims.model == Digest.of(lab.genesis)


def test_cohort_decides_who_is_invited(lab: Lab, trust: Trust) -> None:
    assert judge(trust, lab.signed_offer(1, cohort=(DEVICE, OTHER))).invited
    assert not judge(trust, lab.signed_offer(1, cohort=(OTHER,))).invited


def test_steps_out_of_order_are_our_own_mistake(lab: Lab, trust: Trust) -> None:
    untrusted = TrustedRound(Trust(lab.owner.verify_key, FLEET), DEVICE)
    with pytest.raises(LocalFault):
        untrusted.take_offer(lab.signed_offer(1))
    it = TrustedRound(trust, DEVICE)
    for early in (lambda: it.take_evidence(int(NOW)), it.take_model, it.take_ledger):
        with pytest.raises(LocalFault):
            early()
    it.take_offer(lab.signed_offer(1))
    for early in (it.take_model, it.take_ledger):
        with pytest.raises(LocalFault):
            early()
    ready = TrustedModel(trust)
    for early in (ready.take_evidence, ready.take_receipt, ready.take_ledger):
        with pytest.raises(LocalFault):
            early()


class TestManifest:
    def test_wrong_owner(self, lab: Lab) -> None:
        trust = Trust(lab.owner.verify_key, FLEET)
        with refused(Reason.BAD_SIGNATURE):
            trust.take_manifest(lab.signed_manifest(SigningKey.generate(DEFAULT)))
        assert not trust.ready

    def test_coordinator_cannot_sign_one(self, lab: Lab, trust: Trust) -> None:
        with refused(Reason.BAD_SIGNATURE):
            trust.take_manifest(lab.signed_manifest(lab.coordinator, version=2))

    def test_rollback(self, lab: Lab, trust: Trust) -> None:
        trust.take_manifest(lab.signed_manifest(version=3))
        with refused(Reason.ROLLBACK):
            trust.take_manifest(lab.signed_manifest(version=2))
        with refused(Reason.ROLLBACK):
            trust.take_manifest(lab.signed_manifest(version=3, expires=2**41))

    def test_rollback_is_refused_after_a_restart_that_lost_the_manifest(
        self, lab: Lab, trust: Trust
    ) -> None:
        trust.take_manifest(lab.signed_manifest(version=3))
        later = Trust(lab.owner.verify_key, FLEET, trust.memory)
        with refused(Reason.ROLLBACK):
            later.take_manifest(lab.signed_manifest(version=2))
        later.take_manifest(lab.signed_manifest(version=3))

    def test_the_old_owner_is_refused_after_a_change(self, lab: Lab, trust: Trust) -> None:
        keys = [SigningKey.generate(DEFAULT) for _ in range(3)]
        _, signed = handed_over(replace(lab.manifest, version=2), lab.owner, 2, keys)
        assert trust.take_manifest(signed)
        later = Trust(lab.owner.verify_key, FLEET, trust.memory)  # it has lost the manifest
        for who in (trust, later):
            with refused(Reason.ROLLBACK):
                who.take_manifest(lab.signed_manifest(version=3))
        assert later.take_manifest(signed)


class TestOffer:
    def test_forged(self, lab: Lab, trust: Trust) -> None:
        with refused(Reason.BAD_SIGNATURE):
            judge(trust, lab.signed_offer(1, key=lab.enclave))

    def test_policy_outside_the_owners_bounds(self, lab: Lab, trust: Trust) -> None:
        for change in ({"clip_norm": 9.0}, {"codec": "fixed32"}, {"weight_cap": 200_000}):
            with refused(Reason.POLICY_NOT_ALLOWED):
                judge(trust, lab.signed_offer(1, policy=replace(POLICY, **change)))

    def test_another_manifest(self, lab: Lab, trust: Trust) -> None:
        claims = lab.claims(1, manifest=Digest.of(b"another"))
        with refused(Reason.WRONG_OFFER):
            judge(trust, lab.signed_offer(1, claims=claims))

    def test_a_second_offer_for_an_answered_round(self, lab: Lab, trust: Trust) -> None:
        first = judge(trust, lab.signed_offer(3))
        trust.memory = trust.memory.with_answer(3, first.claims)
        with refused(Reason.EQUIVOCATION):
            judge(trust, lab.signed_offer(3, claims=lab.claims(3, epoch=99)))
        with refused(Reason.WRONG_ROUND):
            judge(trust, lab.signed_offer(2))
        it = TrustedRound(trust, DEVICE)
        it.take_offer(lab.signed_offer(3))
        assert it.answered
        assert judge(trust, lab.signed_offer(4)).invited

    def test_a_round_that_was_released(self, lab: Lab, trust: Trust) -> None:
        stale = lab.signed_offer(1)
        take(trust, lab.release(1, model(1)))
        with refused(Reason.WRONG_ROUND):
            judge(trust, stale)


class TestEvidence:
    def test_for_other_claims(self, lab: Lab, trust: Trust) -> None:
        other = evidence(lab.claims(1, epoch=5))
        with refused(Reason.EVIDENCE_REFUSED):
            judge(trust, lab.signed_offer(1, evidence=other))

    def test_of_an_enclave_that_the_owner_does_not_know(self, lab: Lab, trust: Trust) -> None:
        other = evidence(lab.claims(1), Digest.of(b"another enclave"))
        with refused(Reason.EVIDENCE_REFUSED):
            judge(trust, lab.signed_offer(1, evidence=other))

    def test_insecure_where_the_manifest_does_not_allow_it(self) -> None:
        production = {"allow_insecure": False, "appraisal": AppraisalPolicy(tier=1)}
        lab = Lab(manifest_changes=production)
        trust = Trust(lab.owner.verify_key, FLEET)
        trust.take_manifest(lab.signed_manifest())
        with refused(Reason.EVIDENCE_REFUSED):
            judge(trust, lab.signed_offer(1))

    def test_of_a_tier_that_the_owner_does_not_take(self) -> None:
        lab = Lab(manifest_changes={"appraisal": AppraisalPolicy(tier=1)})
        trust = Trust(lab.owner.verify_key, FLEET)
        trust.take_manifest(lab.signed_manifest())
        with refused(Reason.EVIDENCE_REFUSED):
            judge(trust, lab.signed_offer(1))

    def test_under_a_manifest_that_has_ended(self) -> None:
        lab = Lab(manifest_changes={"expires": int(NOW)})
        trust = Trust(lab.owner.verify_key, FLEET)
        trust.take_manifest(lab.signed_manifest())
        with refused(Reason.EXPIRED_MANIFEST):
            judge(trust, lab.signed_offer(1))
        assert judge(trust, lab.signed_offer(1), today=NOW - 1).invited

    def test_of_an_epoch_that_has_long_ended(self, lab: Lab, trust: Trust) -> None:
        late = NOW + POLICY.deadline_s + CLOCKS_APART_S
        with refused(Reason.STALE_EPOCH):
            judge(trust, lab.signed_offer(1), today=late + 1)
        assert judge(trust, lab.signed_offer(1), today=late).invited

    def test_by_a_clock_that_lost_its_time(self, lab: Lab, trust: Trust) -> None:
        assert judge(trust, lab.signed_offer(1), today=0).invited


class TestModelOfAnOffer:
    def test_wrong_genesis(self, lab: Lab, trust: Trust) -> None:
        with refused(Reason.WRONG_DIGEST):
            judge(trust, lab.signed_offer(1, claims=lab.claims(1, model=Digest.of(b"x"))))

    def test_unknown_receipt_has_to_wait(self, lab: Lab, trust: Trust) -> None:
        ready = lab.release(1, model(1))
        offer = lab.signed_offer(2)
        with pytest.raises(NeedModel):
            judge(trust, offer)
        take(trust, ready)
        assert judge(trust, offer).offer.claims.model == Digest.of(model(1))

    def test_other_weights_than_the_receipt(self, lab: Lab, trust: Trust) -> None:
        take(trust, lab.release(1, model(1)))
        for change in ({"model": Digest.of(b"x")}, {"state": ZERO}):
            with refused(Reason.WRONG_DIGEST):
                judge(trust, lab.signed_offer(2, claims=lab.claims(2, **change)))

    def test_back_to_an_older_model(self, lab: Lab, trust: Trust) -> None:
        genesis = lab.claims(9)
        take(trust, lab.release(1, model(1)))
        old = lab.claims(9)
        take(trust, lab.release(2, model(2)))
        with refused(Reason.ROLLBACK):
            judge(trust, lab.signed_offer(9, claims=genesis))
        with refused(Reason.ROLLBACK):
            judge(trust, lab.signed_offer(9, claims=old))


class TestReceipt:
    def test_by_another_key(self, lab: Lab, trust: Trust) -> None:
        with refused(Reason.BAD_SIGNATURE):
            take(trust, lab.release(1, model(1), enclave_key=lab.coordinator))

    def test_that_disagrees_with_its_claims(self, lab: Lab, trust: Trust) -> None:
        with refused(Reason.WRONG_OFFER):
            take(trust, lab.release(1, model(1), epoch=7))

    def test_from_an_enclave_with_a_foreign_manifest(self, lab: Lab, trust: Trust) -> None:
        foreign = lab.fork()
        foreign.manifest_changes = {"version": 5}
        with refused(Reason.WRONG_OFFER):
            take(trust, foreign.release(1, model(1)))

    def test_of_a_manifest_that_was_replaced_since(self, lab: Lab, trust: Trust) -> None:
        ready = lab.release(1, model(1))
        trust.take_manifest(lab.signed_manifest(version=2))
        assert take(trust, ready).receipt.round == 1

    def test_replay_of_an_older_release(self, lab: Lab, trust: Trust) -> None:
        first = lab.release(1, model(1))
        take(trust, first)
        second = lab.release(2, model(2))
        take(trust, second)
        with refused(Reason.ROLLBACK):
            take(trust, first)
        assert take(trust, second).known

    def test_two_releases_of_one_step(self, lab: Lab, trust: Trust) -> None:
        fork = lab.fork()
        take(trust, lab.release(1, model(1)))
        with refused(Reason.EQUIVOCATION):
            take(trust, fork.release(1, model(7)))

    def test_a_release_that_follows_another_story(self, lab: Lab, trust: Trust) -> None:
        fork = lab.fork()
        take(trust, lab.release(1, model(1)))
        fork.release(1, model(7))
        with refused(Reason.EQUIVOCATION):
            take(trust, fork.release(2, model(8)))

    def test_below_the_owners_least_cohort(self) -> None:
        base = Lab()
        bounds = replace(base.manifest.bounds, min_cohort_floor=2)
        lab = Lab(manifest_changes={"bounds": bounds})
        trust = Trust(lab.owner.verify_key, FLEET)
        trust.take_manifest(lab.signed_manifest())
        with refused(Reason.BELOW_MIN_COHORT):
            take(trust, lab.release(1, model(1)))

    def test_weights_of_another_size(self, lab: Lab, trust: Trust) -> None:
        with refused(Reason.WRONG_SHAPE):
            take(trust, lab.release(1, model(1, size=11)))


class TestLedger:
    def test_shorter(self, lab: Lab, trust: Trust) -> None:
        take(trust, lab.release(1, model(1)))
        take(trust, lab.release(2, model(2)))
        with refused(Reason.ROLLBACK):
            judge(trust, lab.signed_offer(3, checkpoint=lab.checkpoint(1)))

    def test_another_of_the_same_size(self, lab: Lab, trust: Trust) -> None:
        take(trust, lab.release(1, model(1)))
        forged = Checkpoint(1, Tree([b"another leaf"]).root())
        with refused(Reason.EQUIVOCATION):
            judge(trust, lab.signed_offer(2, checkpoint=forged))

    def test_missed_releases_take_a_proof(self, lab: Lab, trust: Trust) -> None:
        take(trust, lab.release(1, model(1)))
        lab.release(2, model(2))
        third = lab.release(3, model(3))
        with pytest.raises(NeedConsistency) as lack:
            take(trust, third)
        assert (lack.value.old_size, lack.value.new_size) == (1, 3)
        proof = Tree(lab.leaves).consistency_proof(1)
        with refused(Reason.BAD_PROOF):
            take(trust, third, proof[:-1])
        assert trust.memory.checkpoint == lab.checkpoint(1)
        assert take(trust, third, proof).receipt.step == 3
        assert trust.memory.checkpoint == lab.checkpoint()

    def test_fork_has_no_proof(self, lab: Lab, trust: Trust) -> None:
        fork = lab.fork()
        take(trust, lab.release(1, model(1)))
        for number in (1, 2):
            fork.release(number, model(7 + number))
        ready = fork.release(3, model(9))
        with refused(Reason.BAD_PROOF):
            take(trust, ready, Tree(fork.leaves).consistency_proof(1))

    def test_receipt_that_is_not_the_last_leaf(self, lab: Lab, trust: Trust) -> None:
        with refused(Reason.BAD_PROOF):
            take(trust, lab.release(1, model(1), ready={"checkpoint": lab.checkpoint()}))


def test_memory_has_one_spelling(lab: Lab, trust: Trust) -> None:
    take(trust, lab.release(1, model(1)))
    memory = trust.memory.with_answer(4, ZERO).with_active(Digest.of(model(1)))
    assert Memory.parse(memory.to_bytes()) == memory
