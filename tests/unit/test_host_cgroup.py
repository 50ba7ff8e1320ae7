"""Whether memory is limited is read from the kernel's files, and said with a remedy."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.host.cgroup import Limit, NotEnforced, memory_limit

UNIT = "/system.slice/qflare-edge.service"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def unified(root: Path, controllers: str = "cpu io memory pids", **limits: str) -> Path:
    files = {"proc/self/cgroup": f"0::{UNIT}\n", "sys/fs/cgroup/cgroup.controllers": controllers}
    places = {"unit": UNIT, "slice": "/system.slice"}
    for name, limit in limits.items():
        files[f"sys/fs/cgroup{places[name]}/memory.max"] = limit + "\n"
    return tree(root, files)


def test_the_units_limit_is_found(tmp_path: Path) -> None:
    assert memory_limit(unified(tmp_path, unit="104857600", slice="max")) == Limit(104857600, UNIT)


def test_an_outer_limit_that_is_lower_counts(tmp_path: Path) -> None:
    root = unified(tmp_path, unit="104857600", slice="52428800")
    assert memory_limit(root) == Limit(52428800, "/system.slice")


def test_without_a_limit_the_unit_is_named(tmp_path: Path) -> None:
    found = memory_limit(unified(tmp_path, unit="max"))
    assert isinstance(found, NotEnforced)
    assert UNIT in found.reason
    assert "MemoryMax=" in found.remedy


@pytest.mark.parametrize("board", ["raspberrypi,4-model-b\0brcm,bcm2711\0", "acme,board\0", None])
def test_a_memory_cgroup_that_is_off_is_said_with_the_boards_remedy(
    tmp_path: Path, board: str | None
) -> None:
    root = unified(tmp_path, controllers="cpuset cpu io pids\n", unit="1000")
    if board is not None:
        tree(root, {"sys/firmware/devicetree/base/compatible": board})
    found = memory_limit(root)
    assert isinstance(found, NotEnforced)
    assert found.reason == "the kernel's memory cgroup is off"
    assert "cgroup_enable=memory" in found.remedy
    assert ("qflare board apply" in found.remedy) is (board is not None and "raspberry" in board)


def test_version_1_is_read_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/box\n1:name=systemd:/box\n0::/box\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1048576\n",
    }
    assert memory_limit(tree(tmp_path, files)) == Limit(1048576, "/box")


def test_a_container_without_the_controller_has_no_limit(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "1:name=systemd:/\n0::/\n", "sys/fs/cgroup/systemd/tasks": ""}
    found = memory_limit(tree(tmp_path, files))
    assert isinstance(found, NotEnforced)
    assert "off" in found.reason
    assert isinstance(memory_limit(tmp_path / "nothing"), NotEnforced)


def test_this_machine_has_an_answer() -> None:
    found = memory_limit()
    assert isinstance(found, Limit) or (found.reason and found.remedy)


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=20))
def test_garbage_never_raises(
    tmp_path_factory: pytest.TempPathFactory, group: bytes, controllers: bytes, limit: bytes
) -> None:
    root = unified(tmp_path_factory.mktemp("root"), unit="max")
    (root / "proc/self/cgroup").write_bytes(b"0::/" + group)
    (root / "sys/fs/cgroup/cgroup.controllers").write_bytes(b"memory " + controllers)
    (root / f"sys/fs/cgroup{UNIT}/memory.max").write_bytes(limit)
    (root / "sys/fs/cgroup/memory.max").write_bytes(limit)
    found = memory_limit(root)
    assert isinstance(found, Limit | NotEnforced)
    if isinstance(found, Limit):
        assert found.bytes >= 0
