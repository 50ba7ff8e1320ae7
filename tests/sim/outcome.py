"""What has to be true of a simulation that came to its end, whatever happened on the way."""

import numpy as np
from sqlalchemy import select

from coordinator.database.schema import rounds
from edge_runtime.memory import Fate
from qflare.envelope import peek_signed
from qflare.merkle import root
from qflare.messages import RoundReceipt, update_leaf
from qflare.names import DeviceId, Digest
from qflare.tensors import FRACTION_BITS
from tests.sim.simulation import Simulation
from tests.unit.coordinator_rig import WEIGHTS


def released(sim: Simulation) -> list[RoundReceipt]:
    """The receipts in the ledger, in order."""
    return [peek_signed(RoundReceipt, leaf) for leaf in sim.coordinator.store.load().leaves]


def admitted(sim: Simulation, round_: int) -> dict[DeviceId, Digest]:
    """What counts in a round, by the coordinator's database."""
    return dict(sim.coordinator.store.admitted(round_))


def abandoned(sim: Simulation) -> dict[int, str]:
    """Rounds that were given up, and why."""
    with sim.coordinator.store._engine.begin() as connection:
        rows = connection.execute(select(rounds.c.number, rounds.c.status, rounds.c.reason))
        return {number: reason for number, status, reason in rows if status == "abandoned"}


def replayed(sim: Simulation) -> list[bytes]:
    """Each released model's bytes, computed in whole numbers from what devices put into their
    seals and from which updates were admitted.
    """
    weights, schedule, out = np.frombuffer(WEIGHTS, "<f4"), sim.settings.policy.schedule, []
    velocity = np.zeros(len(weights))
    for receipt in released(sim):
        parts = [sim.made[update] for update in admitted(sim, receipt.round).values()]
        total = sum(part.weight * part.units for part in parts)
        mean = np.ldexp(total / sum(part.weight for part in parts), -FRACTION_BITS)
        moved = schedule.server_momentum * velocity + mean
        weights = (weights + schedule.server_learning_rate * moved).astype(np.float32)
        velocity = moved.astype(np.float32).astype(np.float64)
        out.append(weights.tobytes())
    return out


def check_outcome(sim: Simulation, honest: bool = True) -> None:
    """Every update that was accepted counts exactly once, or its round was reported abandoned;
    every device has the model that follows from what was admitted, and knows that it was.
    """
    receipts = released(sim)
    lost = abandoned(sim)
    assert [r.step for r in receipts] == list(range(1, sim.settings.rounds + 1))
    assert not {r.round for r in receipts} & lost.keys()
    everything: list[Digest] = []
    for receipt in receipts:
        counted = admitted(sim, receipt.round)
        assert receipt.admitted == len(counted) >= sim.settings.policy.min_cohort
        assert root(update_leaf(d, counted[d]) for d in sorted(counted)) == receipt.updates
        everything += counted.values()
        if honest:
            said = [sim.made[update].tallies for update in counted.values()]
            assert receipt.tallies == tuple(map(sum, zip(*said, strict=True)))
        for device, update in counted.items():
            if update in sim.made:
                assert sim.made[update].round == receipt.round
                assert sim.made[update].device == device
    assert len(set(everything)) == len(everything)
    numbers = {r.round for r in receipts}
    models = replayed(sim) if honest else []
    assert [Digest.of(model) for model in models] == [r.model for r in receipts][: len(models)]
    for edge in sim.edges.values():
        memory = edge.machine.memory
        assert memory.receipt is not None
        assert memory.receipt.digest == receipts[-1].digest
        assert memory.active == receipts[-1].model
        assert Digest.of(edge.disk.blobs[memory.active]) == memory.active
        assert not edge.disk.past.outbox
        for entry in edge.disk.past.journal:
            if entry.round not in numbers:
                assert entry.round in lost
            elif entry.fate in (Fate.ACCEPTED, Fate.COUNTED):
                assert admitted(sim, entry.round)[edge.device] == entry.update
            else:
                assert admitted(sim, entry.round).get(edge.device) != entry.update or (
                    entry.fate is Fate.OVERTAKEN  # its receipt came too late to be heard
                )
        for never in ("odd_transitions", "local_faults", "inclusion_unproven"):
            assert not edge.counters[never], never


def models(sim: Simulation) -> list[bytes]:
    """The released models' bytes, as the coordinator has them."""
    return [sim.coordinator.models.read(receipt.model) for receipt in released(sim)]
