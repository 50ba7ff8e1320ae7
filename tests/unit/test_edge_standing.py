"""What systemd is told, and when the watchdog goes hungry."""

import asyncio
from dataclasses import dataclass

import pytest

from edge_runtime.standing import STILL_S, Standing


@dataclass
class Machine:
    online: bool = True
    doing: str = "waiting"
    trouble: str = ""
    turned: float = 0.0


@dataclass
class Work:
    overdue: bool = False
    failure: BaseException | None = None


class Ear:
    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []
        self.now = 0.0

    def __call__(self, *words: str) -> None:
        self.said.append(words)


def standing(ear: Ear, *devices: Machine, work: Work | None = None) -> Standing:
    return Standing(devices, work or Work(), ear, lambda: ear.now)


def test_the_status_is_said_when_it_changes_and_the_watchdog_always() -> None:
    ear, device = Ear(), Machine()
    it = standing(ear, device)
    it.look()
    it.look()
    device.doing, device.online = "training round 12, step 130", False
    it.look()
    device.trouble = "cannot look up b"
    it.look()
    assert ear.said == [
        ("WATCHDOG=1", "STATUS=waiting; online"),
        ("WATCHDOG=1",),
        ("WATCHDOG=1", "STATUS=training round 12, step 130; offline"),
        ("WATCHDOG=1", "STATUS=training round 12, step 130; offline: cannot look up b"),
    ]


def test_many_devices_are_counted() -> None:
    ear = Ear()
    busy = "training round 2, step 9"
    standing(
        ear, Machine(), Machine(doing=busy), Machine(doing=busy + "9"), Machine(online=False)
    ).look()
    assert ear.said[0][1] == "STATUS=3 of 4 online; 2 training round 2, 2 waiting"


def test_a_machine_that_stands_still_starves_the_watchdog() -> None:
    ear, device = Ear(), Machine()
    it = standing(ear, Machine(turned=1e9), device)
    ear.now = STILL_S
    it.look()
    assert "WATCHDOG=1" in ear.said[-1]
    ear.now += 1
    ear.said.clear()
    it.look()
    assert not ear.said
    device.turned = ear.now
    it.look()
    assert ear.said == [("WATCHDOG=1",)]


def test_a_training_that_could_not_be_ended_does_too() -> None:
    ear, work = Ear(), Work(overdue=True)
    it = standing(ear, Machine(), work=work)
    it.look()
    assert ear.said == [("STATUS=waiting; online",)]
    assert "couldn't be ended" in it.stuck


def test_the_end_of_the_queue_ends_the_daemon() -> None:
    it = standing(Ear(), Machine(), work=Work(failure=ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(it.tell(1.0))
