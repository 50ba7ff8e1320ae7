"""A real enclave without memory is shown a predecessor that never was: no device answers it.

The enclave doesn't appraise its predecessor (docs/adr/0015); the devices do.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.enclave_wire import Configure, OpenRound, Predecessor, RoundOpened
from qflare.envelope import sign
from qflare.faults import Reason
from qflare.messages import ModelReady, RoundOffer
from qflare.names import Digest
from qflare.topics import All
from tests.sim.liar import Liar, evidence
from tests.sim.outcome import check_outcome

POISON = Digest.of(b"code that the owner doesn't know")


class Forger(Liar):
    """Has a receipt of its own make, and an honest enclave that believes whole receipts."""

    def forge(self, step: int = 2, round_: int = 2) -> tuple[Predecessor, ModelReady, bytes]:
        """A receipt by a key of its own, for weights of its own; and the words to say it by."""
        key = SigningKey.generate(DEFAULT)
        last = self.receipts[1]
        claims = self.claims(
            round=round_,
            step=step,
            model=last.previous_model,
            state=self.receipts[0].state,
            receipt=last.previous_receipt,
            signing_key=key.verify_key.raw,
        )
        models = self.sim.coordinator.models
        weights = models.read(self.receipts[0].model)  # of round 1: well-formed, and not round 2's
        receipt = replace(
            last,
            round=round_,
            step=step,
            epoch=claims.epoch,
            claims=claims.digest,
            model=Digest.of(weights),
        )
        signed = sign(receipt, key)
        ready = replace(
            self.models[1], receipt=signed, claims=claims, evidence=evidence(claims, POISON)
        )
        return Predecessor(signed, claims), ready, weights

    def offer_after(self, given: Predecessor, weights: bytes, round_: int) -> RoundOffer:
        """What a fresh enclave, honest in all, opens on this predecessor."""
        sim = self.sim
        sim.enclave.kill()
        self.disk, sim.enclave.disk = sim.enclave.disk, None
        sim.enclave.start()
        sim.enclave.answer(Configure(sim.settings.manifest_bytes).to_bytes())
        state = sim.coordinator.models.read(self.receipts[1].state)
        request = OpenRound(round_, 0, sim.settings.policy, (), given, weights, state)
        reply = sim.enclave.answer(request.to_bytes())
        assert reply is not None
        opened = RoundOpened.parse(reply)  # it can't know better
        assert opened.claims.receipt != self.receipts[1].digest
        return self.offer(opened.claims, evidence=opened.evidence, cohort=opened.cohort)

    def give_back(self) -> None:
        """The enclave that the devices know runs again."""
        self.sim.enclave.kill()
        self.sim.enclave.disk = self.disk
        self.sim.enclave.start()


@pytest.fixture
def forger() -> Iterator[Forger]:
    made = Forger()
    yield made
    made.give_back()
    made.sim.run(made.sim.settled, 400)
    check_outcome(made.sim)
    for edge in made.sim.edges.values():
        assert edge.trained == [1, 2, 3]
        assert edge.counters["inclusion_verified"] == 3


def test_in_the_place_of_the_last_release(forger: Forger) -> None:
    given, _, weights = forger.forge()
    forger.say_signed(All.OFFER, forger.offer_after(given, weights, 3))
    forger.check_refused(Reason.ROLLBACK)


def test_ahead_of_all_that_the_devices_know(forger: Forger) -> None:
    """They ask for the model that it starts from, and refuse that for the evidence behind it."""
    given, ready, weights = forger.forge(step=5, round_=5)
    forger.say_signed(All.OFFER, forger.offer_after(given, weights, 6))
    forger.sim.rest(8.0)
    assert all(edge.trained == [1, 2] for edge in forger.sim.edges.values())
    forger.say_signed(All.MODEL, ready)
    forger.check_refused(Reason.EVIDENCE_REFUSED)
