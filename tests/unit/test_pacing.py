"""A pace stops, holds, limits and slows training, and changes nothing that it computes."""

import threading
import time
from typing import Any

import pytest

from edge_runtime.pacing import OutOfTime, Pacer, Stopped
from edge_runtime.trainer import Plan
from tests import models

PLAN = Plan(learning_rate=0.05, epochs=3, seed=7)


class Clock:
    """A time that only work and waiting move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Waiter:
    """A flag whose waiting moves the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.slept = clock, 0.0
        self.set_after: float | None = None

    def wait(self, seconds: float) -> bool:
        self.clock.now += seconds
        self.slept += seconds
        return self.is_set()

    def is_set(self) -> bool:
        return self.set_after is not None and self.slept >= self.set_after


def paced(**limits: Any) -> tuple[Pacer, Clock, Waiter]:
    clock = Clock()
    stop = Waiter(clock)
    return Pacer(stop, clock=clock, **limits), clock, stop  # type: ignore[arg-type]


def work(pacer: Pacer, clock: Clock, seconds: float) -> None:
    for _ in range(100):
        pacer.step()
        clock.now += seconds


@pytest.mark.parametrize(("duty", "threads"), [(0.1, 1), (0.5, 1), (0.5, 2), (1.0, 1), (1.0, 4)])
def test_computing_takes_its_share_and_no_more(duty: float, threads: int) -> None:
    pacer, clock, stop = paced(duty=duty, threads=threads)
    began, worked = clock(), 0.0
    for i in range(500):
        pacer.step()
        spent = 0.001 + 0.01 * (i % 3)
        clock.now += spent
        worked += spent
    share = worked * threads / (clock() - began)
    if duty == 1.0:
        assert stop.slept == 0
    else:
        assert share == pytest.approx(duty, rel=0.02)


def test_time_that_is_up_is_said() -> None:
    pacer, clock, _ = paced(max_seconds=5.0)
    with pytest.raises(OutOfTime, match=r"longer than 5 s; raise training\.max_seconds"):
        work(pacer, clock, 0.1)
    assert clock() == pytest.approx(105.1, abs=0.11)


def test_sleeping_counts_as_time_but_never_outlasts_it() -> None:
    pacer, clock, _ = paced(max_seconds=5.0, duty=0.1)
    with pytest.raises(OutOfTime):
        work(pacer, clock, 1.0)
    assert clock() < 106.5


def test_being_held_up_is_not_time() -> None:
    clock = Clock()
    stop, hold = Waiter(clock), threading.Event()
    pacer = Pacer(stop, hold, max_seconds=5.0, clock=clock)  # type: ignore[arg-type]
    pacer.step()
    clock.now += 1.0
    hold.set()
    waits = 0

    def wait(seconds: float) -> bool:
        nonlocal waits
        waits += 1
        clock.now += 1000.0
        if waits == 3:
            hold.clear()
        return False

    stop.wait = wait  # type: ignore[method-assign]
    pacer.step()
    assert waits == 3
    clock.now += 1.0
    pacer.step()


def test_a_stop_ends_holding_and_sleeping() -> None:
    stop, hold = threading.Event(), threading.Event()
    hold.set()
    pacer = Pacer(stop, hold)
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        pacer.step()
    assert time.monotonic() - began < 5
    slow = Pacer(stop, duty=0.1)
    with pytest.raises(Stopped):
        slow.step()


def test_the_pace_changes_no_bit() -> None:
    trainer, samples = models.trainer("classifier"), models.samples("classifier")
    start = models.start("classifier")
    free = trainer.train(start, samples, PLAN)
    stop, hold = threading.Event(), threading.Event()
    hold.set()
    threading.Timer(0.1, hold.clear).start()
    slowed = trainer.train(start, samples, PLAN, pace=Pacer(stop, hold, duty=0.1, max_seconds=60))
    assert slowed.weights.tobytes() == free.weights.tobytes()
    assert slowed.personal.tobytes() == free.personal.tobytes()
    assert slowed.loss_last == free.loss_last
    assert slowed.seconds > 0.1
