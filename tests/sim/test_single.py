"""One thing goes wrong, wherever that may be: the same model comes out, with everybody in it."""

import pytest

from tests.sim.outcome import abandoned, check_outcome
from tests.sim.rooms import Room
from tests.sim.simulation import LATENCY_S, Calm, Simulation

DEVICES, ROUNDS = 3, 2


def flipped(payload: bytes) -> bytes:
    """The message with a bit turned in its middle."""
    data = bytearray(payload or b"x")
    data[len(data) // 2] ^= 1
    return bytes(data)


class Once(Calm):
    """Message number `message` is lost or damaged; a process ends after effect number `effect`."""

    def __init__(self, message: int = -1, effect: int = -1, damage: bool = False) -> None:
        self.message, self.effect, self.damage = message, effect, damage
        self.messages: list[tuple[bool, str, str]] = []
        self.effects: list[str] = []

    def carry(
        self, upward: bool, who: str, topic: str, payload: bytes
    ) -> list[tuple[float, bytes]]:
        self.messages.append((upward, who, topic))
        if len(self.messages) - 1 != self.message:
            return [(LATENCY_S, payload)]
        return [(LATENCY_S, flipped(payload))] if self.damage else []

    def kills(self, room: Room) -> bool:
        self.effects.append(room.name)
        return len(self.effects) - 1 == self.effect


def run(faults: Once) -> Simulation:
    sim = Simulation(DEVICES, ROUNDS, faults)
    sim.start(late=1)
    sim.run(sim.settled, 400)
    check_outcome(sim)
    return sim


@pytest.fixture(scope="module")
def whole() -> Once:
    """A run in which nothing goes wrong: what was said, and what was done."""
    faults = Once()
    run(faults)
    return faults


def of_each_kind(faults: Once) -> list[int]:
    """The first message of each kind, between the broker and the coordinator or a device."""
    first: dict[tuple[object, ...], int] = {}
    for number, (upward, who, topic) in enumerate(faults.messages):
        _, _, _, place, *rest = topic.split("/")
        late = who == f"dev-{DEVICES - 1}" or place == f"dev-{DEVICES - 1}"
        first.setdefault((upward, who == "coordinator", late, tuple(rest[:2])), number)
    return sorted(first.values())


@pytest.mark.parametrize("damage", [False, True], ids=["lost", "damaged"])
def test_one_message_of_each_kind(whole: Once, damage: bool) -> None:
    numbers = of_each_kind(whole)
    assert len(numbers) > 30
    for number in numbers:
        check_single(Once(message=number, damage=damage))


def test_a_kill_after_some_effects(whole: Once) -> None:
    for number in range(0, len(whole.effects), 12):
        check_single(Once(effect=number))


def check_single(faults: Once) -> None:
    """The one thing is made good for: at worst it costs a round, when the offer itself was lost."""
    sim = run(faults)
    lost_offer = faults.message >= 0 and faults.messages[faults.message][2].endswith("/all/offer")
    assert lost_offer or not abandoned(sim), faults.message
    if faults.effect >= 0:
        assert sum(sim.kills.values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", [False, True], ids=["lost", "damaged"])
def test_any_message(whole: Once, damage: bool) -> None:
    for number in range(len(whole.messages)):
        check_single(Once(message=number, damage=damage))


@pytest.mark.slow
def test_a_kill_after_any_effect(whole: Once) -> None:
    for number in range(len(whole.effects)):
        check_single(Once(effect=number))
