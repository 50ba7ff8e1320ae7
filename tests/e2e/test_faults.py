"""kill -9 of every process in every phase: the run ends with the model of the undisturbed run.

A phase is held open by stopping (SIGSTOP) whoever would end it, so that the kill hits the phase it
is meant for; then everything goes on. One run for each phase, one victim in each of its rounds.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from qflare.simulate.display import DisplayState
from qflare.simulate.options import Options
from qflare.simulate.report.model import Report
from qflare.simulate.run import Simulation
from qflare.simulate.workdir import claim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("e2e")]

VICTIMS = ("broker", "coordinator", "enclave", "fleet-1")
OPTIONS = {"devices": 4, "rounds": len(VICTIMS) + 1, "workers": 2, "reference": False, "seed": 3}
HELD_S = 1.0  # how long a phase is held before the kill, and after it

# Who is stopped to hold the phase, and how the phase is recognised in a round.
PHASES: dict[str, tuple[tuple[str, ...], Callable[[DisplayState], bool]]] = {
    "opening": (("enclave",), lambda state: state.phase in ("waiting", "opening")),
    "training": (
        ("fleet-1", "fleet-2"),
        lambda state: state.phase == "collecting" and state.received == 0,
    ),
    "accepting": (
        ("fleet-2",),
        lambda state: state.phase == "collecting" and 0 < state.received < state.invited,
    ),
    "admitting": (
        ("enclave",),
        lambda state: state.phase == "collecting" and state.received > 0,
    ),
    "releasing": (
        ("enclave",),
        lambda state: state.phase in ("releasing", "publishing"),
    ),
}


class Assassin:
    """A display that kills: once in each round, one victim after the other."""

    def __init__(self, holders: tuple[str, ...], is_phase: Callable[[DisplayState], bool]) -> None:
        self.simulation: Simulation | None = None
        self.killed: list[str] = []
        self._holders = holders
        self._is_phase = is_phase
        self._busy = False
        self._last_step = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update(self, state: DisplayState) -> None:
        done = len(self.killed) == len(VICTIMS)
        if self._busy or done or state.step == self._last_step or not self._is_phase(state):
            return
        self._busy = True
        self._last_step = state.step
        self._tasks.append(asyncio.create_task(self._strike(VICTIMS[len(self.killed)])))

    async def _strike(self, victim: str) -> None:
        held = [name for name in self._holders if self._signal(name, signal.SIGSTOP)]
        await asyncio.sleep(HELD_S)
        assert self._signal(victim, signal.SIGKILL), f"{victim} wasn't running"
        self.killed.append(victim)
        await asyncio.sleep(HELD_S)
        for name in held:
            self._signal(name, signal.SIGCONT)
        self._busy = False

    def _signal(self, name: str, number: signal.Signals) -> bool:
        assert self.simulation is not None
        if self.simulation.pid(name) is None:
            return False
        self.simulation.kill(name, number)
        return True


def simulate(folder: Path, assassin: Assassin, broker: str = "auto") -> Report:
    options = Options(workdir=folder, broker=broker, **OPTIONS)  # type: ignore[arg-type]
    with claim(folder, keep=False) as site:
        simulation = Simulation(options, site, folder / "logs", assassin)
        assassin.simulation = simulation
        return asyncio.run(simulation.run())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Report:
    assassin = Assassin((), lambda _state: False)
    report = simulate(tmp_path_factory.mktemp("undisturbed"), assassin)
    assert report.ok, report.reasons
    return report


def models(report: Report) -> list[str]:
    return [r.model for r in report.released]


@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_changes_nothing_in_the_end(phase: str, undisturbed: Report, tmp_path: Path) -> None:
    assassin = Assassin(*PHASES[phase])
    report = simulate(tmp_path, assassin)
    assert assassin.killed == list(VICTIMS)
    assert report.ok, report.reasons
    assert report.rounds == OPTIONS["rounds"]
    assert [r.admitted for r in report.released] == [4] * report.rounds
    assert models(report) == models(undisturbed)


def test_nats_gives_the_same_models(undisturbed: Report, tmp_path: Path) -> None:
    report = simulate(tmp_path, Assassin((), lambda _state: False), broker="nats")
    assert report.broker.startswith("nats-server")
    assert models(report) == models(undisturbed)
