"""A round of fifty devices, from the offer to the verified model and the proofs."""

import time

import pytest

from tests.sim.outcome import check_outcome, released
from tests.sim.simulation import Simulation
from tests.unit.coordinator_rig import START


def test_fifty_devices(capsys: pytest.CaptureFixture[str]) -> None:
    sim = Simulation(devices=50, rounds=1, chunk=4096)
    began = time.perf_counter()
    sim.start()
    sim.run(sim.settled)
    took = time.perf_counter() - began
    with capsys.disabled():
        print(f"\n50 devices, one round: {took:.2f} s, {sim.now - START:.1f} virtual seconds")
    check_outcome(sim)
    assert [receipt.admitted for receipt in released(sim)] == [50]
    for edge in sim.edges.values():
        assert edge.counters["inclusion_verified"] == 1
        assert not edge.counters["refused"]
