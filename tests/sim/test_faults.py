"""Bad networks and killed processes: the same rounds come out, or are reported abandoned."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sim.faults import Chaos
from tests.sim.outcome import abandoned, check_outcome, models, released
from tests.sim.simulation import Simulation

DEVICES, ROUNDS = 4, 3


@cache
def undisturbed() -> list[bytes]:
    """The models that come out when nothing goes wrong."""
    sim = Simulation(DEVICES, ROUNDS)
    sim.start()
    sim.run(sim.settled)
    assert [r.admitted for r in released(sim)] == [DEVICES] * ROUNDS
    return models(sim)


def run(faults: Chaos) -> Simulation:
    """Three rounds under these faults, which end after a while."""
    sim = Simulation(DEVICES, ROUNDS, faults, seed=faults.seed)
    faults.unleash(sim)
    sim.start()
    sim.run(sim.settled, 1200)
    check_outcome(sim)
    whole = all(receipt.admitted == DEVICES for receipt in released(sim))
    if whole and not abandoned(sim):
        assert models(sim) == undisturbed()
    return sim


@pytest.mark.parametrize("seed", range(8))
def test_messages_are_lost_repeated_late_short_and_damaged(seed: int) -> None:
    run(Chaos(seed, effect=0.0, cut=0.0))


@pytest.mark.parametrize("seed", range(8))
def test_processes_are_killed_and_connections_break(seed: int) -> None:
    sim = run(Chaos(seed, message=0.0))
    for edge in sim.edges.values():
        assert not edge.counters["refused_bad_signature"]
        assert not edge.counters["inclusion_failed"]


@pytest.mark.parametrize("seed", range(8))
def test_everything_at_once(seed: int) -> None:
    run(Chaos(seed))


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_cohort_in_the_same_weather(seed: int) -> None:
    """Three of five are invited; nobody else is counted."""
    faults = Chaos(seed)
    policy = replace(Simulation(1).settings.policy, max_cohort=3)
    sim = Simulation(5, ROUNDS, faults, seed, cohort=3, policy=policy)
    faults.unleash(sim)
    sim.start()
    sim.run(sim.settled, 1200)
    check_outcome(sim)
    assert all(2 <= receipt.admitted <= 3 for receipt in released(sim))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    message=st.floats(0, 0.4),
    effect=st.floats(0, 0.03),
    cut=st.floats(0, 0.1),
)
def test_any_mixture(seed: int, message: float, effect: float, cut: float) -> None:
    run(Chaos(seed, 60.0, message, effect, cut))
