"""What a coordinator, its database, its disk and the broker ever see of a device's tallies."""

from qflare import codec
from qflare.names import Digest
from qflare.tallies import Tallies, add, zeros
from qflare.topics import CoordinatorMetric, build
from tests.sim.outcome import check_outcome, released
from tests.sim.rooms import Room
from tests.sim.simulation import Simulation
from tests.unit.coordinator_rig import CLASSES, FLEET


class Wiretap(Simulation):
    """Keeps every byte that the coordinator ever had on its disk."""

    def __init__(self) -> None:
        self.kept: set[bytes] = set()
        super().__init__(devices=3, rounds=2)

    def performed(self, room: Room) -> None:
        self.kept |= {*self.coordinator.models.blobs.values()}
        self.kept |= {*self.coordinator.spool.whole.values()}
        super().performed(room)


def test_outside_of_the_enclave_there_are_only_sums() -> None:
    sim = Wiretap()
    sim.start()
    sim.run(sim.settled)
    check_outcome(sim)  # which adds them up
    with sim.coordinator.store._engine.begin() as connection:
        database = connection.connection.driver_connection
        assert database is not None
        sim.kept.add(database.serialize())
    said = {payload for _, _, payload in sim.broker.log}
    assert sim.made.keys() <= {Digest.of(data) for data in sim.kept}  # each update was seen whole
    everything = b"\0".join(sim.kept | said)
    for receipt in released(sim):
        assert _spelled(receipt.tallies) in everything  # the search finds what is there
    for made in sim.made.values():
        assert _spelled(made.tallies) not in everything
    of_a_round = [m.tallies for m in sim.made.values() if m.round == released(sim)[0].round]
    for missing in range(len(of_a_round)):
        rest = zeros(CLASSES)
        for tallies in of_a_round[:missing] + of_a_round[missing + 1 :]:
            rest = add(rest, tallies)
        assert _spelled(rest) not in everything


def _spelled(tallies: Tallies) -> bytes:
    return codec.encode(list(tallies))


def test_the_dashboard_hears_the_receipts_word() -> None:
    sim = Simulation(devices=3, rounds=2)
    sim.start()
    sim.run(sim.settled)
    receipt = released(sim)[-1]
    topic = build(CoordinatorMetric(FLEET, "validation"))
    payload = sim.broker.retained[topic]
    assert f'"round":{receipt.round}'.encode() in payload
    assert f'"examples":{sum(receipt.tallies[:-2:3])}'.encode() in payload
