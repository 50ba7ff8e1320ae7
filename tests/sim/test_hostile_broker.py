"""A broker that gives messages to the wrong device, repeats old ones and makes up new ones: it can
delay a round, and nothing more.
"""

from collections.abc import Callable
from dataclasses import replace

from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import peek_signed, sign
from qflare.faults import Reason
from qflare.messages import ModelReady, RoundOffer, UpdateReceipt
from qflare.names import DeviceId
from qflare.topics import All, AllTopic, Down, DownTopic, build
from tests.sim.outcome import abandoned, admitted, check_outcome, released
from tests.sim.simulation import LATENCY_S, Calm, Simulation
from tests.unit.coordinator_rig import FLEET

A, B = DeviceId("dev-0"), DeviceId("dev-1")


def receipts_of(device: DeviceId) -> str:
    return build(DownTopic(FLEET, device, Down.RECEIPT))


class Tapped(Calm):
    """`hear` sees every message that reaches a device, and may do something about it."""

    def __init__(self) -> None:
        self.hear: Callable[[str, str, bytes], None] = lambda who, topic, payload: None
        self.hold: Callable[[str, str], float] = lambda who, topic: 0.0  # seconds

    def carry(
        self, upward: bool, who: str, topic: str, payload: bytes
    ) -> list[tuple[float, bytes]]:
        if upward:
            return [(LATENCY_S, payload)]
        self.hear(who, topic, payload)
        return [(LATENCY_S + self.hold(who, topic), payload)]


def inject(sim: Simulation, who: DeviceId, topic: str, payload: bytes) -> None:
    """Hand a message to a device, as only its broker can."""
    deliver = sim.broker.sessions[who].deliver
    assert deliver is not None
    sim.after(0.0, lambda: deliver(topic, payload, False))


def test_receipts_for_somebody_else() -> None:
    """B hears A's receipts on its own topic, long before its own one comes."""
    tap = Tapped()
    sim = Simulation(2, 2, tap)

    def hear(who: str, topic: str, payload: bytes) -> None:
        if topic == receipts_of(A):
            for at in (A, B):
                inject(sim, B, receipts_of(at), payload)

    tap.hear = hear
    tap.hold = lambda who, topic: 0.5 if topic == receipts_of(B) else 0.0
    sim.start()
    sim.run(sim.settled, 400)
    check_outcome(sim)
    assert not abandoned(sim)
    counters = sim.edges[B].counters
    assert counters["refused_wrong_offer"] >= 2
    assert counters["refused_wrong_topic"] >= 2
    assert counters["updates_accepted"] == counters["inclusion_verified"] == 2


def test_old_receipts_again() -> None:
    """All receipts of round 1 again in round 2, while its own ones are held back."""
    tap = Tapped()
    sim = Simulation(2, 2, tap)
    old: list[tuple[str, bytes]] = []

    def hear(who: str, topic: str, payload: bytes) -> None:
        if topic.endswith("/down/receipt"):
            round_ = peek_signed(UpdateReceipt, payload).round
            if round_ == 1:
                old.append((topic, payload))
        if topic.endswith("/down/grant"):
            for told, receipt in old:
                if told == topic.replace("grant", "receipt"):
                    inject(sim, DeviceId(who), told, receipt)

    tap.hear = hear
    tap.hold = lambda who, topic: 5.0 if topic.endswith("/down/receipt") else 0.0
    sim.start()
    sim.run(sim.settled, 400)
    check_outcome(sim)
    assert len(old) >= 2
    assert [r.admitted for r in released(sim)] == [2, 2]
    for name, edge in sim.edges.items():
        fates = {entry.round: entry for entry in edge.disk.past.journal}
        assert all(admitted(sim, n)[name] == entry.update for n, entry in fates.items())


def test_forged_and_old_offers_and_models() -> None:
    """Retained messages of its own making, and of the round before, whenever one is looked at."""
    tap = Tapped()
    sim = Simulation(3, 3, tap)
    forger = SigningKey.generate(DEFAULT)
    seen: dict[All, list[bytes]] = {All.OFFER: [], All.MODEL: []}
    kinds = {build(AllTopic(FLEET, kind)): kind for kind in seen}

    def hear(who: str, topic: str, payload: bytes) -> None:
        if who == "coordinator" or topic not in kinds or not payload:
            return
        kind = kinds[topic]
        message: RoundOffer | ModelReady
        if kind is All.OFFER:
            offer = peek_signed(RoundOffer, payload)
            message = replace(offer, closes_at=offer.closes_at + 1)
        else:
            message = replace(peek_signed(ModelReady, payload), model_size=4)
        if payload not in seen[kind]:
            seen[kind].append(payload)
        for made in (sign(message, forger), *seen[kind][:-1]):
            inject(sim, DeviceId(who), topic, made)

    tap.hear = hear
    sim.start()
    sim.run(sim.settled, 400)
    check_outcome(sim)
    assert not abandoned(sim)
    assert [r.admitted for r in released(sim)] == [3, 3, 3]
    for edge in sim.edges.values():
        counters = edge.counters
        assert counters["refused_bad_signature"] >= 6
        assert counters[f"refused_{Reason.WRONG_ROUND}"] >= 1
        assert counters[f"refused_{Reason.ROLLBACK}"] >= 1
        assert edge.trained == [1, 2, 3]


def test_withdrawn_by_the_broker() -> None:
    """Nobody signs that there is no round: the broker may say so, which costs time only."""
    tap = Tapped()
    sim = Simulation(2, 1, tap)
    topic = build(AllTopic(FLEET, All.OFFER))
    liable = {A, B}

    def hear(who: str, told: str, payload: bytes) -> None:
        if told == topic and payload and who in liable:
            liable.discard(DeviceId(who))
            sim.after(0.1, lambda: inject(sim, DeviceId(who), topic, b""))

    tap.hear = hear
    sim.start()
    sim.run(sim.settled, 400)
    check_outcome(sim)
    assert not abandoned(sim)
    assert all(edge.counters["trainings_stopped"] == 1 for edge in sim.edges.values())


def test_every_message_twice_and_all_of_them_to_everybody() -> None:
    """Each device hears what is for any of them."""
    tap = Tapped()
    sim = Simulation(4, 2, tap)

    def hear(who: str, topic: str, payload: bytes) -> None:
        if who != "coordinator":
            for name in sim.edges:
                if sim.broker.sessions[name].deliver is not None:
                    inject(sim, name, topic, payload)

    tap.hear = hear
    sim.start()
    sim.run(sim.settled, 400)
    check_outcome(sim)
    assert not abandoned(sim)
    assert [r.admitted for r in released(sim)] == [4, 4]
