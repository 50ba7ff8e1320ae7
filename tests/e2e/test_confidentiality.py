"""The coordinator never holds a key that opens an update: its files and memory are searched.

The keys are taken from the simulated enclave itself (which a simulated platform can't prevent),
while a round is open, and looked for in everything that the coordinator has.
"""

import asyncio
import os
import re
from pathlib import Path

import pytest

from enclave import slots
from enclave.evidence.insecure_simulated import InsecureSimulated
from enclave.measure import measure
from enclave.state import State
from qflare.simulate.display import DisplayState
from qflare.simulate.options import Options
from qflare.simulate.run import Simulation
from qflare.simulate.workdir import claim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("e2e")]

MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r")


def memory_holds(pid: int, needles: list[bytes]) -> bool:
    """Is any of the needles in the readable memory of the process?"""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = MAPPING.match(line)
            if not match or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(group, 16) for group in match.groups())
            try:
                memory.seek(start)
                region = memory.read(end - start)
            except OSError:
                continue
            if any(needle in region for needle in needles):
                return True
    return False


class Searcher:
    """A display that looks for the enclave's keys while updates are coming in."""

    def __init__(self, state: Path) -> None:
        self.simulation: Simulation | None = None
        self.searches = 0
        self.found: list[str] = []
        self.enclave_has_them = False
        self._state = state

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update(self, state: DisplayState) -> None:
        if self.searches >= 3 or state.phase == "starting":
            return
        home = self._state / "enclave" / "state"
        if not home.exists() or (sealed := slots.read(home)) is None:
            return
        platform = InsecureSimulated.load(home, measure().measurement)
        secrets = State.restore(platform.unseal(sealed))
        if secrets.opened is None:
            return
        self.searches += 1
        # ML-KEM's seed is d || z and X25519's key follows; each alone would be a leak.
        kem = secrets.opened.kem_seed
        needles = [kem[:32], kem[32:64], kem[64:], secrets.signing_seed]
        assert self.simulation is not None
        for name in ("coordinator", "broker", "fleet-1"):
            pid = self.simulation.pid(name)
            if pid is not None and memory_holds(pid, needles):
                self.found.append(f"memory of {name}")
        for path in self._state.rglob("*"):
            if path.is_file() and home not in path.parents:
                content = path.read_bytes()
                if any(needle in content for needle in needles):
                    self.found.append(str(path))
        enclave = self.simulation.pid("enclave")
        if os.geteuid() == 0 and enclave is not None:
            self.enclave_has_them |= memory_holds(enclave, needles)


def test_no_key_of_the_enclave_is_anywhere_else(tmp_path: Path) -> None:
    options = Options(devices=8, rounds=12, workers=1, reference=False, workdir=tmp_path)
    with claim(tmp_path, keep=False) as site:
        searcher = Searcher(site.state)
        searcher.simulation = Simulation(options, site, tmp_path / "logs", searcher)
        report = asyncio.run(searcher.simulation.run())
    assert report.ok, report.reasons
    assert searcher.searches > 0
    assert searcher.found == []
    if os.geteuid() == 0:
        assert searcher.enclave_has_them, "the search itself finds nothing: it proves nothing"
