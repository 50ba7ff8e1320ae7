"""The device's machine, one transition at a time."""

from dataclasses import replace

import pytest

from edge_runtime import events as ev
from edge_runtime.memory import Fate
from edge_runtime.phases import Phase
from edge_runtime.state import OUTBOX_KEPT
from qflare.effects import Publish
from qflare.envelope import Update, open_signed
from qflare.messages import (
    CoordinatorHello,
    DeviceHello,
    PartyState,
    Presence,
    ReceiptStatus,
    Telemetry,
)
from qflare.names import Digest
from qflare.topics import All, Down, Up
from qflare.transfer import (
    Grant,
    TransferOffer,
)
from tests.edge_lab import Lab, model
from tests.edge_pilot import OTHER, Pilot, connected, trained


@pytest.fixture
def pilot() -> Pilot:
    return connected()


def test_birth_and_will_name_the_same_session(pilot: Pilot) -> None:
    (birth,) = [e for e in pilot.of(Publish) if e.retain]
    assert PartyState.parse(birth.payload).status is Presence.ONLINE
    will = pilot.machine.will()
    assert (will.topic, will.retain) == (birth.topic, True)
    said = PartyState.parse(will.payload)
    assert said.status is Presence.LOST
    assert said.session == PartyState.parse(birth.payload).session
    assert DeviceHello.parse(pilot.said(Up.HELLO)[0]).certificate == pilot.lab.der
    pilot.restart()
    assert PartyState.parse(pilot.machine.will().payload).session == said.session + 1


def test_that_it_is_here_is_said_again_ever_more_rarely(pilot: Pilot) -> None:
    """Whoever missed it would take an idle device for one that is away, for ever."""
    trained(pilot)  # the coordinator has answered
    pilot.done.clear()
    said = []
    for second in range(3600):
        pilot.tick(1)
        births = [e for e in pilot.of(Publish) if e.retain]
        said += [second] * len(births)
        assert all(PartyState.parse(e.payload).status is Presence.ONLINE for e in births)
        assert not pilot.said(Up.HELLO)
        pilot.done.clear()
    assert 6 < len(said) < 12


def test_stop_says_goodbye_and_nothing_after(pilot: Pilot) -> None:
    effects = pilot.feed(ev.Stop())
    (goodbye,) = [e for e in effects if isinstance(e, Publish)]
    assert PartyState.parse(goodbye.payload).status is Presence.STOPPED


def test_a_whole_round(pilot: Pilot) -> None:
    pilot.play_round(1)
    assert pilot.machine.phase is Phase.WAITING
    counters = pilot.machine.counters
    assert counters["inclusion_verified"] == counters["models_active"] == 1
    assert not counters["refused"]
    assert pilot.machine.memory.active == Digest.of(model(1))
    (raw,) = pilot.said(Up.TELEMETRY)
    telemetry = open_signed(Telemetry, raw, pilot.lab.key.verify_key)
    assert (telemetry.round, telemetry.correct, telemetry.examples) == (1, 7, 10)
    assert {"appraise", "evaluate", "fetch", "transfer"} <= dict(telemetry.stages).keys()
    assert [e.fate for e in pilot.of(ev.Settle)] == [Fate.ACCEPTED, Fate.COUNTED]


def test_rounds_follow_each_other_and_slots_swap(pilot: Pilot) -> None:
    for round_ in (1, 2, 5):
        pilot.play_round(round_)
    memory = pilot.machine.memory
    assert (memory.active, memory.previous) == (Digest.of(model(5)), Digest.of(model(2)))
    assert Digest.of(model(1)) not in pilot.disk.past.blobs
    assert {memory.active, memory.previous} <= pilot.disk.past.blobs


def test_offer_before_anything_else_waits_for_the_manifest() -> None:
    pilot = Pilot()
    pilot.feed(ev.LinkUp(1_000_000))
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(1), retained=True)
    assert pilot.machine.phase is Phase.APPRAISING
    pilot.to_all(All.MANIFEST, pilot.manifest, retained=True)
    assert pilot.machine.phase is Phase.FETCHING


def test_commit_comes_before_the_first_word_about_it(pilot: Pilot) -> None:
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
    pilot.serve()
    assert pilot.machine.phase is Phase.TRAINING
    effects = pilot.feed(pilot.train())
    kinds = [type(e) for e in effects]
    assert kinds.index(ev.Commit) < kinds.index(Publish)
    (commit,) = pilot.of(ev.Commit)
    assert commit.memory.answered_round == 1
    assert commit.residual == pilot.lab.update(pilot.of(ev.Train)[0].claims)[1]
    assert commit.personal == b"personal"
    header = Update.parse(commit.entry.data, 10_000).header
    assert header.claims == commit.journal.claims
    assert pilot.machine.phase is Phase.SENDING


def test_not_invited_stays_idle(pilot: Pilot) -> None:
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(1, cohort=(OTHER,)))
    assert pilot.machine.phase is Phase.WAITING
    assert not pilot.of(ev.Train)
    pilot.to_all(All.MODEL, pilot.lab.release(1, model(1)), retained=True)
    pilot.blobs[Digest.of(model(1))] = model(1)
    pilot.serve()
    pilot.evaluate()
    assert len(pilot.said(Up.TELEMETRY)) == 1


def test_an_offer_ahead_of_its_model_waits_for_it(pilot: Pilot) -> None:
    weights = model(1)
    ready = pilot.lab.release(1, weights)
    pilot.to_all(All.OFFER, pilot.lab.signed_offer(2))
    assert pilot.machine.phase is Phase.APPRAISING
    assert not pilot.said(Up.ASK)
    pilot.to_all(All.MODEL, ready)
    assert pilot.machine.phase is Phase.FETCHING
    pilot.fan_out(weights)
    pilot.serve()
    assert pilot.machine.phase is Phase.TRAINING


class TestOffers:
    def test_the_same_again_trains_once_and_offers_the_update_again(self, pilot: Pilot) -> None:
        offer = pilot.lab.signed_offer(1)
        pilot.to_all(All.OFFER, offer)
        pilot.serve()
        pilot.to_all(All.OFFER, offer)
        pilot.feed(pilot.train())
        before = len(pilot.said(Up.OFFER))
        pilot.to_all(All.OFFER, offer)
        assert len(pilot.of(ev.Train)) == 1
        assert len(pilot.said(Up.OFFER)) == before + 1

    def test_another_one_for_an_answered_round_is_equivocation(self, pilot: Pilot) -> None:
        trained(pilot)
        second = pilot.lab.signed_offer(1, claims=pilot.lab.claims(1, epoch=9))
        pilot.to_all(All.OFFER, second)
        assert pilot.reasons() == ["equivocation"]
        assert len(pilot.of(ev.Train)) == 1

    def test_another_one_while_training_is_equivocation(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        pilot.serve()
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1, claims=pilot.lab.claims(1, epoch=9)))
        assert pilot.reasons() == ["equivocation"]
        assert pilot.machine.counters["equivocations"] == 1
        pilot.feed(pilot.train())
        assert len(pilot.of(ev.Commit)) == 1

    def test_a_later_round_stops_training(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        pilot.serve()
        late = pilot.train()
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(2))
        assert pilot.of(ev.StopTraining) == [ev.StopTraining(1)]
        assert [t.round for t in pilot.of(ev.Train)] == [1, 2]
        pilot.feed(late)
        pilot.feed(ev.TrainingFailed(1, late.claims, "stopped", stopped=True))
        assert not pilot.of(ev.Commit)
        assert pilot.machine.phase is Phase.TRAINING
        pilot.feed(pilot.train())
        assert [c.entry.round for c in pilot.of(ev.Commit)] == [2]

    def test_withdrawn(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        pilot.serve()
        pilot.to_all(All.OFFER, b"")
        assert pilot.of(ev.StopTraining)
        assert pilot.machine.phase is Phase.WAITING

    def test_failed_training_waits_for_the_next_round(self, pilot: Pilot) -> None:
        offer = pilot.lab.signed_offer(1)
        pilot.to_all(All.OFFER, offer)
        pilot.serve()
        claims = pilot.of(ev.Train)[0].claims.digest
        pilot.feed(ev.TrainingFailed(1, claims, "diverged"))
        pilot.to_all(All.OFFER, offer)
        assert len(pilot.of(ev.Train)) == 1
        assert pilot.machine.phase is Phase.WAITING
        trained(pilot, 2)
        assert len(pilot.of(ev.Commit)) == 1


class TestOutbox:
    def test_offered_again_until_granted_and_again_after_silence(self, pilot: Pilot) -> None:
        trained(pilot)
        for _ in range(6):
            pilot.tick()
        assert len(pilot.said(Up.OFFER)) == 3
        offer = TransferOffer.parse(pilot.said(Up.OFFER)[0])
        pilot.down(Down.GRANT, Grant(offer.transfer, (0,)).to_bytes())
        pilot.tick(5)
        assert len(pilot.said(Up.OFFER)) == 3
        pilot.tick(6)
        assert len(pilot.said(Up.OFFER)) == 4

    def test_offered_at_each_connection_and_hello(self, pilot: Pilot) -> None:
        trained(pilot)
        pilot.feed(ev.LinkDown())
        pilot.tick(10)
        assert len(pilot.said(Up.OFFER)) == 1
        pilot.feed(ev.LinkUp(1_000_000))
        assert len(pilot.said(Up.OFFER)) == 2
        pilot.to_all(All.HELLO, CoordinatorHello(5).to_bytes())
        assert len(pilot.said(Up.OFFER)) == 3
        assert len(pilot.said(Up.HELLO)) == 3

    def test_only_granted_chunks_are_sent(self, pilot: Pilot) -> None:
        lab = Lab()
        pilot = Pilot(lab)
        pilot.machine = lab.machine(pilot.disk.past)
        pilot.feed(ev.LinkUp(2048))
        pilot.to_all(All.MANIFEST, pilot.manifest)
        trained(pilot)
        offer = TransferOffer.parse(pilot.said(Up.OFFER)[0])
        assert offer.chunk == 2048
        assert offer.chunks > 1
        assert not any("/up/chunk/" in topic for topic, _ in pilot.published())
        pilot.down(Down.GRANT, Grant(offer.transfer, (offer.chunks,)).to_bytes())
        assert pilot.reasons() == ["bad_value"]
        pilot.accept()
        assert pilot.machine.phase is Phase.WAITING

    def test_refused_update_leaves_the_outbox(self, pilot: Pilot) -> None:
        trained(pilot)
        update = pilot.of(ev.Commit)[0].entry.update
        refusal = pilot.lab.update_receipt(
            1, update, status=ReceiptStatus.REFUSED, reason="round_closed"
        )
        pilot.down(Down.RECEIPT, refusal)
        assert pilot.of(ev.Settle)[-1].fate is Fate.REFUSED
        assert not pilot.disk.past.outbox
        pilot.down(Down.RECEIPT, refusal)
        assert not pilot.reasons()

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"key": "enclave"}, "bad_signature"),
            ({"device": OTHER}, "wrong_offer"),
            ({"update": Digest.of(b"x")}, "wrong_digest"),
            ({"round_": 2}, "wrong_round"),
        ],
    )
    def test_receipts_that_are_none(
        self, pilot: Pilot, change: dict[str, object], reason: str
    ) -> None:
        trained(pilot)
        update = pilot.of(ev.Commit)[0].entry.update
        given = {"round_": 1, "update": update} | change
        if "key" in change:
            given["key"] = pilot.lab.enclave
        pilot.down(Down.RECEIPT, pilot.lab.update_receipt(**given))  # type: ignore[arg-type]
        assert pilot.reasons() == [reason]
        assert len(pilot.disk.past.outbox) == 1
        pilot.accept()
        assert not pilot.disk.past.outbox

    def test_overtaken_update_is_dropped(self, pilot: Pilot) -> None:
        trained(pilot)
        pilot.to_all(All.MODEL, pilot.lab.release(1, model(1)))
        assert len(pilot.disk.past.outbox) == 1  # its receipt may still come
        pilot.to_all(All.MODEL, pilot.lab.release(2, model(2)))
        assert not pilot.disk.past.outbox
        assert pilot.of(ev.Settle)[-1].fate is Fate.OVERTAKEN

    def test_one_that_nobody_takes_makes_room_for_newer_ones(self, pilot: Pilot) -> None:
        for round_ in range(1, OUTBOX_KEPT + 3):
            trained(pilot, round_)
        kept = [*range(3, OUTBOX_KEPT + 3)]
        assert [entry.round for entry in pilot.disk.past.outbox] == kept
        settled = [effect.update for effect in pilot.of(ev.Settle)]
        committed = [effect.entry.update for effect in pilot.of(ev.Commit)]
        assert settled == committed[:2]
        assert [fields["round"] for fields in pilot.notes("update overtaken")] == [1, 2]
        assert pilot.machine.counters["updates_overtaken"] == 2
        pilot.done.clear()
        pilot.tick(20)
        offered = {TransferOffer.parse(said).round for said in pilot.said(Up.OFFER)}
        assert offered == set(kept)


class TestRestart:
    def test_while_training_trains_again(self, pilot: Pilot) -> None:
        offer = pilot.lab.signed_offer(1)
        pilot.to_all(All.OFFER, offer)
        pilot.serve()
        pilot.restart()
        pilot.connect()
        pilot.to_all(All.OFFER, offer, retained=True)
        assert len(pilot.of(ev.Train)) == 1

    def test_after_the_commit_sends_and_does_not_train(self, pilot: Pilot) -> None:
        offer = pilot.lab.signed_offer(1)
        trained(pilot)
        update = pilot.disk.past.outbox[0].update
        pilot.restart()
        pilot.connect()
        pilot.to_all(All.OFFER, offer, retained=True)
        assert not pilot.of(ev.Train)
        assert pilot.accept() == update

    def test_between_a_release_and_its_check(self, pilot: Pilot) -> None:
        ready = pilot.lab.release(1, model(1))
        pilot.to_all(All.MODEL, ready)
        pilot.restart()
        pilot.blobs[Digest.of(model(1))] = model(1)
        pilot.connect()
        pilot.to_all(All.MODEL, ready, retained=True)
        pilot.serve()
        pilot.evaluate()
        assert pilot.machine.memory.active == Digest.of(model(1))

    def test_after_a_receipt_the_proof_is_still_asked_for(self, pilot: Pilot) -> None:
        trained(pilot)
        update = pilot.accept()
        ready = pilot.lab.release(1, model(1), (update,))
        pilot.restart()
        pilot.disk.past = replace(
            pilot.disk.past,
            journal=tuple(replace(j, fate=Fate.ACCEPTED) for j in pilot.disk.past.journal),
        )
        pilot.restart()
        pilot.blobs[Digest.of(model(1))] = model(1)
        pilot.connect()
        pilot.to_all(All.MODEL, ready, retained=True)
        pilot.serve()
        assert pilot.machine.counters["inclusion_verified"] == 1


def test_topics_of_others_are_refused(pilot: Pilot) -> None:
    for topic in (
        "qflare/1/demo/dev-2/down/grant",
        "qflare/1/other/all/offer",
        "qflare/1/demo/dev-1/up/hello",
        "nonsense",
    ):
        pilot.feed(ev.Received(topic, b"x"))
    assert pilot.reasons() == ["wrong_topic", "wrong_fleet", "wrong_topic", "wrong_topic"]
    pilot.play_round(1)
