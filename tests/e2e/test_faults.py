"""kill -9 of every process in every phase: the run ends with the model of the undisturbed run.

A phase is held open by stopping (SIGSTOP) whoever would end it, so that the kill hits the phase it
is meant for; then everything goes on. Short phases that can't be held (opening, publishing) are
hit by kills at random moments.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qflare.simulate.display import DisplayState
from qflare.simulate.options import Options
from qflare.simulate.report.model import Report
from qflare.simulate.run import Simulation
from qflare.simulate.workdir import claim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("e2e")]

VICTIMS = ("broker", "coordinator", "enclave", "fleet-1")
OPTIONS = {"devices": 4, "rounds": 16, "workers": 2, "reference": False, "seed": 3}
HELD_S = 0.7  # how long a phase is held before the kill, and after it

# Who is stopped to hold the phase, and how the phase is recognised once they are.
PHASES: dict[str, tuple[tuple[str, ...], Callable[[DisplayState], bool]]] = {
    "training": (
        ("fleet-1", "fleet-2"),
        lambda state: state.phase == "collecting" and state.received == 0,
    ),
    "accepting": (
        ("fleet-2",),
        lambda state: state.phase == "collecting" and 0 < state.received < state.invited,
    ),
    "admitting": (
        ("fleet-2", "enclave"),
        lambda state: state.phase == "collecting" and 0 < state.received < state.invited,
    ),
    "releasing": (  # everything is accepted, and the enclave owes its answers
        ("enclave",),
        lambda state: (
            state.phase in ("collecting", "releasing") and state.received == state.invited
        ),
    ),
}


class Watcher:
    """A display that runs a scenario beside the simulation."""

    def __init__(self, scenario: Callable[["Watcher"], Awaitable[None]] | None = None) -> None:
        self.simulation: Simulation | None = None
        self.killed: list[str] = []
        self.changed = 0.0
        self.state: DisplayState | None = None
        self.scenario: asyncio.Task[None] | None = None
        self._start = scenario

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update(self, state: DisplayState) -> None:
        if self.state is None or (self.state.step, self.state.phase, self.state.received) != (
            state.step,
            state.phase,
            state.received,
        ):
            self.changed = asyncio.get_running_loop().time()
        self.state = state
        if self.scenario is None and self._start and state.phase == "collecting":
            self.scenario = asyncio.ensure_future(self._start(self))
        if self.scenario and self.scenario.done():
            self.scenario.result()

    @property
    def step(self) -> int:
        return self.state.step if self.state else 0

    def quiet(self) -> bool:
        """Has nothing changed for a while? Metrics come five times a second."""
        return asyncio.get_running_loop().time() - self.changed > 0.4

    async def until(self, condition: Callable[[DisplayState], bool]) -> None:
        for _ in range(3000):
            if self.state and condition(self.state):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"waited for a phase that never came; now: {self.state}")

    def signal(self, name: str, number: signal.Signals) -> None:
        assert self.simulation is not None
        if self.simulation.pid(name) is not None:
            self.simulation.kill(name, number)

    async def kill(self, name: str) -> None:
        assert self.simulation is not None
        while self.simulation.pid(name) is None:  # still coming back from the last time
            await asyncio.sleep(0.01)
        self.signal(name, signal.SIGKILL)
        self.killed.append(name)


def held(phase: str) -> Callable[[Watcher], Awaitable[None]]:
    holders, is_phase = PHASES[phase]

    async def scenario(watcher: Watcher) -> None:
        for victim in VICTIMS:
            while not await hold(watcher):
                resume(watcher)
                await asyncio.sleep(0.3)
            await asyncio.sleep(HELD_S)
            await watcher.kill(victim)
            await asyncio.sleep(HELD_S)
            step = watcher.step
            resume(watcher)
            await watcher.until(lambda state, step=step: state.step > step)  # type: ignore[misc]

    async def hold(watcher: Watcher) -> bool:
        """Stop the holders; False if the round was too far for this phase already."""
        for name in holders:
            watcher.signal(name, signal.SIGSTOP)
        too_far = watcher.step
        for _ in range(300):
            state = watcher.state
            if state and is_phase(state) and watcher.quiet():
                return True
            await asyncio.sleep(0.01)
        assert watcher.step <= too_far + 1
        return False

    def resume(watcher: Watcher) -> None:
        for name in holders:
            watcher.signal(name, signal.SIGCONT)

    return scenario


def anytime(seed: int) -> Callable[[Watcher], Awaitable[None]]:
    rng = random.Random(seed)

    async def scenario(watcher: Watcher) -> None:
        for victim in rng.sample(VICTIMS * 3, 12):
            await asyncio.sleep(rng.uniform(0, 0.5))
            if watcher.state and watcher.state.phase == "done":
                return
            await watcher.kill(victim)

    return scenario


def simulate(folder: Path, watcher: Watcher, broker: str = "auto") -> Report:
    options = Options(workdir=folder, broker=broker, **OPTIONS)  # type: ignore[arg-type]
    with claim(folder, keep=False) as site:
        simulation = Simulation(options, site, folder / "logs", watcher)
        watcher.simulation = simulation
        return asyncio.run(simulation.run())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Report:
    report = simulate(tmp_path_factory.mktemp("undisturbed"), Watcher())
    assert report.ok, report.reasons
    return report


def check(report: Report, undisturbed: Report) -> None:
    assert report.ok, report.reasons
    assert [r.admitted for r in report.released] == [4] * OPTIONS["rounds"]
    assert [r.model for r in report.released] == [r.model for r in undisturbed.released]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("broker", ["mosquitto", "nats"])
def test_a_kill_in_any_phase_changes_nothing(
    broker: str, phase: str, undisturbed: Report, tmp_path: Path
) -> None:
    watcher = Watcher(held(phase))
    report = simulate(tmp_path, watcher, broker)
    assert watcher.killed == list(VICTIMS)
    check(report, undisturbed)
    assert report.broker.startswith(broker)


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_any_moment_change_nothing(seed: int, undisturbed: Report, tmp_path: Path) -> None:
    watcher = Watcher(anytime(seed))
    report = simulate(tmp_path, watcher)
    assert len(watcher.killed) >= 4
    check(report, undisturbed)
