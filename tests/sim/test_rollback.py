"""Somebody brings back an old disk: the rounds stop and the log says why; nothing old is believed,
and with the right disk they go on.
"""

from pathlib import Path

import pytest

from coordinator.database import Store
from qflare.faults import Reason
from tests.sim.outcome import abandoned, check_outcome, released
from tests.sim.rooms import Coordinator
from tests.sim.simulation import Simulation

PAUSE_S = 20.0


@pytest.fixture
def sim() -> Simulation:
    made = Simulation(3, 3, pause_s=PAUSE_S)
    made.start()
    made.run(lambda: len(released(made)) == 1)
    made.rest(1.0)
    return made


def copy(coordinator: Coordinator) -> Store:
    """The database as it is now."""
    there = Store(Path(":memory:"))
    source, target = coordinator.store._engine, there._engine
    with source.connect() as a, target.connect() as b:
        a.connection.driver_connection.backup(b.connection.driver_connection)  # type: ignore[union-attr]
    return there


def stands_still(sim: Simulation) -> None:
    """Nothing is offered, trained or given up, and the reason is counted."""
    trained = [list(edge.trained) for edge in sim.edges.values()]
    given_up = abandoned(sim)
    sim.rest(3 * PAUSE_S)
    assert [list(edge.trained) for edge in sim.edges.values()] == trained
    assert abandoned(sim) == given_up
    assert sim.coordinator.machine.book.refusals[Reason.ROLLBACK] >= 1


def test_the_enclave_is_put_back(sim: Simulation) -> None:
    old = sim.enclave.disk
    sim.run(lambda: len(released(sim)) == 2)
    sim.rest(1.0)
    new = sim.enclave.disk
    sim.enclave.kill()
    sim.enclave.disk = old
    sim.enclave.start()
    stands_still(sim)
    sim.enclave.kill()
    sim.enclave.disk = new
    sim.enclave.start()
    sim.run(sim.settled)
    check_outcome(sim)


def test_the_enclave_forgets_everything(sim: Simulation) -> None:
    """A new one without memory takes over from the last receipt, whose evidence it appraises."""
    sim.enclave.kill()
    sim.enclave.disk = None
    sim.enclave.start()
    sim.run(sim.settled)
    check_outcome(sim)
    assert not abandoned(sim)


def test_the_database_is_put_back(sim: Simulation) -> None:
    coordinator = sim.coordinator
    old = copy(coordinator)
    sim.run(lambda: len(released(sim)) == 2)
    sim.rest(1.0)
    new = copy(coordinator)
    coordinator.kill()
    coordinator.store = old
    coordinator.start()
    stands_still(sim)
    coordinator.kill()
    coordinator.store = new
    coordinator.start()
    sim.run(sim.settled)
    check_outcome(sim)
