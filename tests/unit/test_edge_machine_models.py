"""How the machine fetches models, takes releases, and begins with the genesis model."""

from dataclasses import replace

import pytest

from edge_runtime import events as ev
from edge_runtime.download import PIECE
from edge_runtime.machine import Machine
from edge_runtime.phases import Phase
from edge_runtime.proving import TRIES
from edge_runtime.state import LOST_FIRST_S, LOST_LAST_S
from qflare.messages import (
    update_leaf,
)
from qflare.names import Digest
from qflare.proofs import Tree
from qflare.topics import All, AllChunk, Down, DownChunk, Up
from qflare.transfer import (
    AskBlob,
    AskConsistency,
    ConsistencyAnswer,
    InclusionAnswer,
)
from tests.edge_lab import DEVICE, FLEET, Lab, model
from tests.edge_pilot import CHUNK, Pilot, connected, trained


@pytest.fixture
def pilot() -> Pilot:
    return connected()


class TestBlobs:
    def test_asked_for_again_after_silence_and_reconnection(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        assert len(pilot.said(Up.ASK)) == 2
        pilot.tick(1)
        assert len(pilot.said(Up.ASK)) == 2
        pilot.tick(4)
        assert len(pilot.said(Up.ASK)) == 4
        pilot.feed(ev.LinkDown())
        pilot.feed(ev.LinkUp(1_000_000))
        assert len(pilot.said(Up.ASK)) == 6

    def test_a_wrong_chunk_is_refused_and_asked_for_again(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        graph = Digest.of(pilot.lab.graph)
        pilot.receive(DownChunk(FLEET, DEVICE, graph, 0), b"grape")
        assert pilot.reasons() == ["wrong_digest"]
        pilot.serve()
        assert pilot.machine.phase is Phase.TRAINING

    def test_lost_blob_is_fetched_again(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        pilot.serve()
        pilot.feed(ev.BlobLost(Digest.of(pilot.lab.graph), "damaged"))
        assert pilot.machine.phase is Phase.FETCHING
        pilot.tick(11)
        pilot.serve()
        assert pilot.machine.phase is Phase.TRAINING
        assert len(pilot.of(ev.Train)) == 2

    def test_a_disk_that_refuses_a_blob_is_asked_less_and_less(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        graph, waits = Digest.of(pilot.lab.graph), []
        for _ in range(9):
            pilot.serve()
            for _ in range(2):  # the second one was on its way already
                pilot.feed(ev.BlobLost(graph, "No space left on device"))
            waited = 0
            while not pilot.said(Up.ASK):
                pilot.tick(1)
                waited += 1
            waits.append(waited)
        assert waits == [10, 20, 40, 80, 160, 320, 600, 600, 600]
        pilot.serve()
        assert pilot.machine.phase is Phase.TRAINING
        pilot.tick(4 * LOST_LAST_S)  # a damaged file, years later, isn't the same trouble
        pilot.feed(ev.BlobLost(graph, "is damaged"))
        pilot.done.clear()
        pilot.tick(LOST_FIRST_S)
        assert pilot.said(Up.ASK)

    def test_what_was_put_by_is_fetched_on_after_a_restart(self, pilot: Pilot) -> None:
        lab = Lab(genesis=bytes(4 * PIECE + 4), parameters=(("w", (PIECE + 1,)),))
        weights = Digest.of(lab.genesis)
        pilot = Pilot(lab)
        pilot.connect()
        pilot.to_all(All.OFFER, lab.signed_offer(1))
        count = len(lab.genesis) // CHUNK
        for index in range(count // 2 + 3):
            pilot.receive(DownChunk(FLEET, DEVICE, weights, index), lab.genesis[:CHUNK])
        kept = pilot.of(ev.KeepPart)
        assert [it.piece.offset for it in kept] == [0, PIECE]
        assert {it.size for it in kept} == {len(lab.genesis)}
        pilot.restart()
        pilot.connect()
        pilot.to_all(All.OFFER, lab.signed_offer(1), retained=True)
        assert [note["bytes"] for note in pilot.notes("download resumed")] == [2 * PIECE]
        asked = [AskBlob.parse(said) for said in pilot.said(Up.ASK)]
        assert min(i for ask in asked if ask.blob == weights for i in ask.indices) == count // 2
        pilot.serve()
        last = pilot.of(ev.StoreBlob)[-1]
        assert (last.blob, last.offset) == (weights, 4 * PIECE)
        assert pilot.machine.phase is Phase.TRAINING

    def test_a_superseded_download_is_given_up(self, pilot: Pilot) -> None:
        pilot.play_round(1)
        for round_ in (2, 3):
            pilot.to_all(All.MODEL, pilot.lab.release(round_, model(round_)))
        (kept,) = pilot.of(ev.KeepBlobs)[-1:]
        assert Digest.of(model(1)) in kept.blobs
        assert Digest.of(model(2)) not in kept.blobs
        pilot.tick(3)
        asked = {AskBlob.parse(said).blob for said in pilot.said(Up.ASK)}
        assert asked == {Digest.of(model(3))}

    def test_fan_out_is_waited_for_before_asking(self, pilot: Pilot) -> None:
        pilot.play_round(1)
        weights = model(2)
        pilot.to_all(All.MODEL, pilot.lab.release(2, weights))
        assert not pilot.said(Up.ASK)
        pilot.tick(3)
        (ask,) = pilot.said(Up.ASK)
        assert AskBlob.parse(ask) == AskBlob(Digest.of(weights), (0,))
        pilot.receive(AllChunk(FLEET, Digest.of(weights), 0), weights)
        assert pilot.of(ev.Evaluate)[-1].model == Digest.of(weights)


class TestGenesis:
    """What applications use until there is a release."""

    def test_it_is_checked_and_becomes_active_without_any_round(self, pilot: Pilot) -> None:
        genesis = Digest.of(pilot.lab.genesis)
        pilot.tick(3)
        pilot.serve()
        assert [order.model for order in pilot.of(ev.Evaluate)] == [genesis]
        pilot.evaluate()
        assert pilot.of(ev.Activate) == [ev.Activate(genesis, 0)]
        assert pilot.disk.past.memory.active == genesis
        assert not pilot.said(Up.TELEMETRY)
        pilot.restart()
        pilot.connect()
        pilot.tick(30)
        assert not pilot.of(ev.Evaluate)
        pilot.play_round(1)
        assert pilot.machine.memory.previous == genesis

    def test_a_release_takes_its_place_at_any_time(self, pilot: Pilot) -> None:
        ready = pilot.lab.release(1, model(1))
        pilot.to_all(All.MODEL, ready, retained=True)
        pilot.tick(3)
        asked = {AskBlob.parse(said).blob for said in pilot.said(Up.ASK)}
        assert asked == {Digest.of(pilot.lab.graph), Digest.of(model(1))}

    def test_a_round_needs_no_check_of_it(self, pilot: Pilot) -> None:
        trained(pilot)
        assert not pilot.of(ev.Evaluate)

    def test_a_device_that_only_trains_doesnt_ask_for_it(self) -> None:
        pilot = Pilot()
        settings = replace(pilot.lab.settings(), serving=False)
        pilot.machine = Machine(settings, pilot.disk.past)
        pilot.connect()
        pilot.tick(30)
        assert not pilot.said(Up.ASK)

    def test_one_that_doesnt_work_here_is_refused(self, pilot: Pilot) -> None:
        pilot.tick(3)
        pilot.serve()
        genesis = Digest.of(pilot.lab.genesis)
        pilot.feed(ev.EvaluationFailed(genesis, "golden value 0 is wrong", verdict=True))
        assert pilot.of(ev.Refuse) == [ev.Refuse(genesis, "golden value 0 is wrong")]
        pilot.tick(3600)
        assert len(pilot.of(ev.Evaluate)) == 1


class TestReleases:
    def test_missed_releases(self, pilot: Pilot) -> None:
        pilot.play_round(1)
        pilot.lab.release(2, model(2))
        ready = pilot.lab.release(3, model(3))
        pilot.blobs[Digest.of(model(3))] = model(3)
        pilot.to_all(All.MODEL, ready)
        (ask,) = pilot.said(Up.ASK)
        assert AskConsistency.parse(ask) == AskConsistency(1, 3)
        wrong = ConsistencyAnswer(1, 3, (Digest.of(b"x"),))
        pilot.down(Down.ANSWER, wrong.to_bytes())
        assert pilot.reasons() == ["bad_proof"]
        pilot.serve()
        assert pilot.machine.memory.checkpoint == pilot.lab.checkpoint()

    def test_a_model_that_fails_its_check_does_not_become_active(self, pilot: Pilot) -> None:
        pilot.play_round(1)
        bad = model(2)
        pilot.to_all(All.MODEL, pilot.lab.release(2, bad))
        pilot.fan_out(bad)
        pilot.feed(ev.EvaluationFailed(Digest.of(bad), "not finite"))
        pilot.tick()
        assert pilot.machine.memory.active == Digest.of(model(1))
        assert pilot.machine.counters["models_failed"] == 1
        pilot.play_round(3)
        assert pilot.machine.memory.active == Digest.of(model(3))

    def test_a_release_ends_the_training_for_it(self, pilot: Pilot) -> None:
        pilot.to_all(All.OFFER, pilot.lab.signed_offer(1))
        pilot.serve()
        pilot.to_all(All.MODEL, pilot.lab.release(1, model(1)))
        assert pilot.of(ev.StopTraining) == [ev.StopTraining(1)]

    def test_wrong_inclusion_is_loud_and_asked_for_again(self, pilot: Pilot) -> None:
        trained(pilot)
        update = pilot.accept()
        pilot.to_all(All.MODEL, pilot.lab.release(1, model(1), (update,)))
        proof = Tree([b"x", update_leaf(DEVICE, update)]).inclusion_proof(1)
        pilot.down(Down.ANSWER, InclusionAnswer(1, update, 0, 1, proof).to_bytes())
        assert pilot.machine.counters["inclusion_failed"] == 1
        assert any(n.level == "error" for n in pilot.of(ev.Note))
        pilot.tick(6)
        pilot.fan_out(model(1))
        pilot.serve()
        assert pilot.machine.counters["inclusion_verified"] == 1

    def test_nobody_proves_inclusion(self, pilot: Pilot) -> None:
        trained(pilot)
        update = pilot.accept()
        pilot.to_all(All.MODEL, pilot.lab.release(1, model(1), (update,)))
        for _ in range(TRIES + 5):
            pilot.tick(6)
        assert pilot.machine.counters["inclusion_unproven"] == 1
        assert not pilot.machine.counters["inclusion_verified"]
