"""How the machine takes a release into its slot, refuses it, or tries again."""

from dataclasses import replace

import pytest

from edge_runtime import events as ev
from edge_runtime.acceptance import Bounds, Scores, judge
from edge_runtime.releases import AGAIN_FIRST_S
from qflare.envelope import open_signed
from qflare.messages import Telemetry
from qflare.names import Digest
from qflare.topics import All, Up
from tests.edge_lab import model
from tests.edge_pilot import Pilot


@pytest.fixture
def pilot() -> Pilot:
    made = Pilot()
    made.connect()
    made.play_round(1)
    return made


def release(pilot: Pilot, number: int) -> Digest:
    weights = model(number)
    pilot.to_all(All.MODEL, pilot.lab.release(number, weights))
    pilot.fan_out(weights)
    assert pilot.of(ev.Evaluate)[-1].model == Digest.of(weights)
    return Digest.of(weights)


def test_the_slot_is_switched_before_the_memory_says_so(pilot: Pilot) -> None:
    new = release(pilot, 2)
    effects = pilot.feed(ev.Evaluated(new, 100, 80, 50.0, 0.1, 1, Scores(100, 81, 49.0)))
    kinds = [type(e) for e in effects if isinstance(e, ev.Activate | ev.SaveMemory)]
    assert kinds == [ev.Activate, ev.SaveMemory]
    assert pilot.of(ev.Activate)[-1] == ev.Activate(new, 2)
    assert pilot.machine.memory.active == new


def test_a_model_that_is_worse_here_is_refused_for_good(pilot: Pilot) -> None:
    bad = release(pilot, 2)
    pilot.feed(ev.Evaluated(bad, 100, 40, 50.0, 0.1, 1, Scores(100, 90, 20.0)))
    assert pilot.machine.memory.active == Digest.of(model(1))
    refusal = pilot.of(ev.Refuse)[-1]
    assert refusal.model == bad
    assert "0.400" in refusal.reason
    assert "0.900" in refusal.reason
    assert pilot.machine.counters["models_refused"] == 1
    checks = len(pilot.of(ev.Evaluate))
    pilot.to_all(All.MODEL, pilot.manifest)  # nonsense changes nothing
    for _ in range(5):
        pilot.tick(AGAIN_FIRST_S)
    assert len(pilot.of(ev.Evaluate)) == checks


def test_the_coordinator_hears_of_a_refusal(pilot: Pilot) -> None:
    bad = release(pilot, 2)
    pilot.feed(ev.Evaluated(bad, 100, 40, 50.0, 0.1, 1, Scores(100, 90, 20.0)))
    said = open_signed(Telemetry, pilot.said(Up.TELEMETRY)[-1], pilot.lab.key.verify_key)
    assert (said.model, said.examples, said.correct) == (bad, 100, 40)
    assert dict(said.counters)["total_models_refused"] == 1


def test_a_refusal_outlives_a_restart(pilot: Pilot) -> None:
    bad = release(pilot, 2)
    pilot.feed(ev.EvaluationFailed(bad, "golden value 0 is wrong", verdict=True))
    pilot.disk.past = replace(pilot.disk.past, refused=frozenset({bad}))
    pilot.restart()
    pilot.connect()
    for _ in range(5):
        pilot.tick(AGAIN_FIRST_S)
    assert not pilot.of(ev.Evaluate)
    good = release(pilot, 3)
    pilot.evaluate()
    assert pilot.machine.memory.active == good


def test_a_machine_that_could_not_check_tries_again_later(pilot: Pilot) -> None:
    new = release(pilot, 2)
    waits = []
    for _ in range(3):
        pilot.feed(ev.EvaluationFailed(new, "the training process was killed"))
        checks, waited = len(pilot.of(ev.Evaluate)), 0
        while len(pilot.of(ev.Evaluate)) == checks:
            pilot.tick(10.0)
            waited += 10
        waits.append(waited)
    assert waits == [60, 120, 240]
    assert not pilot.of(ev.Refuse)
    pilot.evaluate()
    assert pilot.machine.memory.active == new


def test_a_lost_slot_is_made_again(pilot: Pilot) -> None:
    active = pilot.machine.memory.active
    checks = len(pilot.of(ev.Evaluate))
    pilot.feed(ev.SlotLost(active, "model.tflite is damaged"))
    pilot.tick(AGAIN_FIRST_S)
    assert len(pilot.of(ev.Evaluate)) == checks + 1
    pilot.evaluate()
    assert pilot.of(ev.Activate)[-1] == ev.Activate(active, 1)


def test_a_lost_slot_gives_way_to_a_newer_model(pilot: Pilot) -> None:
    active = pilot.machine.memory.active
    new = release(pilot, 2)
    pilot.feed(ev.SlotLost(active, "damaged"))
    pilot.evaluate()
    assert pilot.machine.memory.active == new
    checks = len(pilot.of(ev.Evaluate))
    pilot.tick(AGAIN_FIRST_S)
    assert len(pilot.of(ev.Evaluate)) == checks


def test_loss_that_is_not_finite_is_no_telemetry(pilot: Pilot) -> None:
    bad = release(pilot, 2)
    pilot.feed(ev.Evaluated(bad, 100, 40, float("nan"), 0.1, 1, Scores(100, 40, 20.0)))
    assert pilot.of(ev.Refuse)[-1].model == bad


class TestJudge:
    bounds = Bounds(max_accuracy_drop=0.1, max_loss_rise=0.5, min_examples=20)

    @pytest.mark.parametrize(
        ("new", "active", "counted", "accepted", "why"),
        [
            (Scores(0, 0, 0.0), Scores(50, 50, 1.0), True, True, "self-test alone"),
            (Scores(50, 0, 9.0), None, True, True, "no active model"),
            (Scores(19, 0, 9.0), Scores(19, 19, 1.0), True, True, "too few"),
            (Scores(1000, 850, 9.0), Scores(1000, 900, 1.0), True, True, "0.850"),
            (Scores(1000, 700, 9.0), Scores(1000, 900, 1.0), True, False, "wanted"),
            # 20 examples: what chance does is larger than the bound.
            (Scores(20, 12, 9.0), Scores(20, 15, 1.0), True, True, "0.600"),
            (Scores(20, 4, 9.0), Scores(20, 15, 1.0), True, False, "wanted"),
            (Scores(100, 0, 149.0), Scores(100, 0, 100.0), False, True, "loss"),
            (Scores(100, 0, 151.0), Scores(100, 0, 100.0), False, False, "loss"),
            (Scores(100, 0, 1.0), Scores(100, 0, 0.0), False, False, "loss"),
            (Scores(100, 0, 0.0), Scores(100, 0, 0.0), False, True, "loss"),
            (Scores(100, 0, 1.0), Scores(100, 0, float("inf")), False, True, "loss"),
            (Scores(5, 5, float("inf")), None, True, False, "finite"),
            (Scores(100, 5, 1.0), Scores(99, 99, 1.0), True, True, "too few"),
        ],
    )
    def test_bounds(
        self, new: Scores, active: Scores | None, counted: bool, accepted: bool, why: str
    ) -> None:
        verdict = judge(new, active, self.bounds, counted)
        assert verdict.accepted is accepted
        assert why in verdict.reason
