"""Where the kernel doesn't limit the unit, training limits itself, and the operator is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime import events as ev
from edge_runtime.budget import LEAST_MIB, UNKNOWN_MIB, notice, training_mib, unlimited
from edge_runtime.machine import Machine
from qflare.effects import Publish
from qflare.host.boards import load
from qflare.messages import PartyState
from tests.edge_lab import Lab
from tests.gate_rig import put

SERVICE = {"INVOCATION_ID": "0123"}
GROUP = "/system.slice/qflare-edge.service"
ZERO_2_W = {
    "proc/meminfo": "MemTotal:         431000 kB\nMemFree: 1 kB\n",
    "proc/self/cgroup": f"0::{GROUP}\n",
    "sys/firmware/devicetree/base/compatible": "raspberrypi,model-zero-2-w\0brcm,bcm2837\0",
}
ON = {
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    f"sys/fs/cgroup{GROUP}/memory.max": "220672000\n",
}
OFF = {"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}


def test_a_board_has_its_budget(tmp_path: Path) -> None:
    put(tmp_path, ZERO_2_W | ON)
    assert training_mib(None, load("rpi-zero2w"), tmp_path) == 192
    assert training_mib(None, None, tmp_path) == UNKNOWN_MIB
    assert training_mib(300, load("rpi-zero2w"), tmp_path) == 300  # MemoryMax= sees to the rest
    assert unlimited(SERVICE, tmp_path) is None
    assert notice(SERVICE, tmp_path) == ""


def test_without_the_memory_cgroup_we_keep_the_limit_ourselves(tmp_path: Path) -> None:
    put(tmp_path, ZERO_2_W | OFF)
    assert training_mib(None, load("rpi-zero2w"), tmp_path) == 192
    half = 431000 // 1024 // 2
    assert training_mib(300, load("rpi-zero2w"), tmp_path) == half
    assert training_mib(None, None, tmp_path) == half
    said = notice(SERVICE, tmp_path)
    assert "memory cgroup is off" in said
    assert "sudo qflare board apply --write" in said
    assert notice({}, tmp_path) == ""  # no unit, and so no MemoryMax= to miss


def test_a_unit_without_a_limit_is_told_of(tmp_path: Path) -> None:
    put(tmp_path, ZERO_2_W | ON | {f"sys/fs/cgroup{GROUP}/memory.max": "max\n"})
    assert "set MemoryMax= in the unit" in notice(SERVICE, tmp_path)


@pytest.mark.parametrize("said", ["", "MemTotal:", "MemTotal: many kB", "Something: 5 kB"])
def test_a_kernel_that_says_nothing_changes_nothing(said: str, tmp_path: Path) -> None:
    put(tmp_path, OFF | {"proc/meminfo": said})
    assert training_mib(300, None, tmp_path) == 300
    put(tmp_path, {"proc/meminfo": "MemTotal: 50000 kB\n"})
    assert training_mib(300, None, tmp_path) == LEAST_MIB


def test_the_operator_sees_it_for_as_long_as_it_is_so() -> None:
    machine = Machine(replace(Lab().settings(), notice="MemoryMax= does nothing"))
    for event, said in (
        (ev.LinkUp(1_000_000), "MemoryMax= does nothing"),
        (ev.Held("too hot"), "too hot; MemoryMax= does nothing"),
        (ev.Held(""), "MemoryMax= does nothing"),
        (ev.Stop(), ""),
    ):
        effects = machine.handle(event, 1.0)
        states = [e for e in effects if isinstance(e, Publish) and e.topic.endswith("/state")]
        assert [PartyState.parse(state.payload).detail for state in states] == [said]
