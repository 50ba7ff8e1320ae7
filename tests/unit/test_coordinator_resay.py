"""What stands is said to everybody again, and only while somebody may have missed it."""

from pathlib import Path

import pytest

from coordinator.events import Tick
from qflare.names import DeviceId
from qflare.topics import AllTopic
from tests.unit.coordinator_rig import Rig, World

_WORLD = World()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(_WORLD, tmp_path)


def said_to_all(rig: Rig, seconds: int) -> list[str]:
    """What everybody is told in so many quiet seconds."""
    before = len(rig.published)
    for _ in range(seconds):
        rig.now += 1.0
        rig.events.append(Tick())
        while rig.events:
            rig.step()
    return [str(topic.kind) for topic, _ in rig.published[before:] if isinstance(topic, AllTopic)]


def test_what_everybody_is_known_to_have_is_not_said_again(rig: Rig) -> None:
    rig.run(rig.done)
    assert said_to_all(rig, 7200) == []


def test_what_somebody_may_have_missed_is_said_again_ever_more_rarely(rig: Rig) -> None:
    rig.run(rig.done)
    # Its report was lost, or the model on its way to it.
    del rig.machine.book.reports[DeviceId.parse("dev-0")]
    for device in rig.devices.values():
        device.online = False  # deaf, so that nothing new is reported
    said = ["manifest", "model", "offer"]
    assert said_to_all(rig, 20) == said
    assert said_to_all(rig, 7200) == 7 * said  # the pauses double: 30, 60, … 1920 s, then an hour


def test_an_open_offer_is_said_again_to_whoever_has_not_answered(rig: Rig) -> None:
    rig.devices[DeviceId.parse("dev-2")].answered |= {1}
    rig.run(lambda: len(rig.enclave.admitted) == 2)
    assert said_to_all(rig, 20) == ["manifest", "offer"]
