"""QFLARE on an emulated arm64 board: systemd, the unit's sandbox, real rounds, and power cuts.

One board goes through everything in turn, as booting it takes longer than what is tried on it. Its
time says nothing about a real board's, and it has no GPU, no thermal zones and no SD card.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.board import image
from tests.board.fleet import running
from tests.board.machine import Board, Broken, powered
from tests.joined_fleet import Fleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.board,
    pytest.mark.skipif(bool(image.missing()), reason=image.missing() or "can be made"),
    pytest.mark.timeout(2400),
]
INSTALL_MAX_MIB = 120
EDGE = """\
[device]
fleet = "{fleet}"
name = "{name}"
state_dir = "/var/lib/qflare"
key = "device.seed"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "{brokers[0]}"
fallbacks = ["{brokers[1]}"]
password_file = "broker.password"
[data]
path = "/etc/qflare/samples.npz"
[gates]
enabled = false
"""


def test_a_boards_life(tmp_path: Path) -> None:
    made = image.build(tmp_path / "image")
    assert made.mebibytes <= INSTALL_MAX_MIB

    async def body() -> None:
        async with running(tmp_path / "fleet") as fleet:
            files = tmp_path / "files"
            files.mkdir()
            (ticket,) = await asyncio.to_thread(
                fleet.operator, "token", "new", "--out", str(tmp_path / "tickets")
            )
            (files / "ticket").write_bytes(Path(ticket["file"]).read_bytes())
            fleet.shares[1].write(files / "samples.npz")
            board = Board(made, tmp_path / "board")
            board.add_files(files)
            await asyncio.to_thread(_first_day, board, fleet)
            await asyncio.to_thread(_after_the_cut, board, fleet)

    asyncio.run(body())


def _first_day(board: Board, fleet: Fleet) -> None:
    with powered(board):
        _enrol(board)
        board.run(
            "systemctl enable --now qflare-edge || { journalctl -u qflare-edge -o cat; false; }",
            300,
        )
        _trains(board, fleet, "from its first start on")
        _is_sandboxed(board)
        _survives_a_full_memory(board, fleet)
        _is_restarted_when_it_hangs(board)
        _trains(board, fleet, "after the watchdog's restart")
        # The power goes in the midst of whatever it does.


def _after_the_cut(board: Board, fleet: Fleet) -> None:
    with powered(board):
        board.until("systemctl is-active qflare-edge", "^active", 300)
        _trains(board, fleet, "after a power cut, by itself")
        board.run("systemctl stop qflare-edge", 60)
        show = board.run("systemctl show qflare-edge -p Result,ExecMainStatus")
        assert "Result=success" in show
        assert "ExecMainStatus=0" in show
        journal = board.run("journalctl -u qflare-edge --no-pager -o cat", 60)
        assert "Traceback" not in journal
        password = board.run("cat /etc/qflare/broker.password")
        assert password not in journal


def _enrol(board: Board) -> None:
    board.run("systemd-sysusers && systemd-tmpfiles --create", 120)
    said = board.run(
        "/opt/qflare/current/bin/qflare device enrol --ticket /payload/ticket --dir /etc/qflare"
        " --board generic-arm64 --serial board-7 --json 2>/dev/null",
        300,
    )
    enrolled = json.loads(said.splitlines()[-1])
    board.run("cp /payload/samples.npz /etc/qflare/ && chmod 644 /etc/qflare/samples.npz")
    board.write("/etc/qflare/edge.toml", EDGE.format(**enrolled))
    board.run("systemd-tmpfiles --create")


def _trains(board: Board, fleet: Fleet, when: str) -> None:
    """A round that began from now on has both devices' updates."""
    before = len(fleet.export()["rounds"])

    def both() -> bool:
        return any(r["admitted"] == 2 for r in fleet.export()["rounds"][before:])

    try:
        _until(both, f"no round with the board {when}", 300)
    except AssertionError as error:
        journal = board.run("journalctl -u qflare-edge --no-pager -o cat | tail -40", 60)
        raise Broken(f"{error}\n{fleet.export()['rounds'][-3:]}\n{journal}") from None


def _until(condition: Callable[[], Any], what: str, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(2)


def _is_sandboxed(board: Board) -> None:
    pid = board.run("systemctl show qflare-edge -p MainPID --value")
    status = board.run(f"cat /proc/{pid}/status")
    assert re.search(r"CapBnd:\s+0000000000000000", status)
    assert re.search(r"NoNewPrivs:\s+1", status)
    assert re.search(r"Seccomp:\s+2", status)
    assert board.run(f"stat -c %U /proc/{pid}") == "qflare"
    for path in ("/usr/x", "/etc/x", "/opt/x", "/home/x", "/dev/x"):
        said = board.run(f"nsenter -t {pid} -m touch {path}", check=False)
        assert re.search("Read-only|denied|No such", said), (path, said)
    exposure = board.run("systemd-analyze security qflare-edge --no-pager | tail -1", 120)
    found = re.search(r"exposure level for qflare-edge.service: ([\d.]+)", exposure)
    assert found, exposure
    assert float(found.group(1)) <= 1.2
    assert "online" in board.run("systemctl show qflare-edge -p StatusText --value")


def _survives_a_full_memory(board: Board, fleet: Fleet) -> None:
    """The kernel ends the training process, a round is lost, and the daemon goes on."""
    pid = board.run("systemctl show qflare-edge -p MainPID --value")
    limit = int(board.run("systemctl show qflare-edge -p MemoryMax --value"))
    assert limit < 768 * 2**20  # of the unit: a share of the board's memory
    board.run("systemctl set-property --runtime qflare-edge MemoryMax=42M")
    events = "cat /sys/fs/cgroup/system.slice/qflare-edge.service/memory.events"
    board.until(events, r"oom_kill [1-9]", 300)
    board.until("journalctl -u qflare-edge --no-pager -o cat | tail -50", "memory", 120)
    assert board.run("systemctl show qflare-edge -p MainPID --value") == pid
    board.run(f"systemctl set-property --runtime qflare-edge MemoryMax={limit}")
    _trains(board, fleet, "after the memory was full")


def _is_restarted_when_it_hangs(board: Board) -> None:
    board.run("mkdir -p /run/systemd/system/qflare-edge.service.d")
    board.write(
        "/run/systemd/system/qflare-edge.service.d/soon.conf",
        "[Service]\nWatchdogSec=20\nTimeoutAbortSec=5\nRestartSec=1\n",
    )
    board.run("systemctl daemon-reload && systemctl restart qflare-edge", 300)
    pid = board.run("systemctl show qflare-edge -p MainPID --value")
    board.run(f"kill -STOP {pid}")
    board.until("systemctl show qflare-edge -p NRestarts --value", "^1$", 180)
    board.until("systemctl is-active qflare-edge", "^active", 180)
    assert "watchdog" in board.run("journalctl -u qflare-edge --no-pager -o cat").lower()
