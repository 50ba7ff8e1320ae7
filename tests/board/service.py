"""The daemon's unit on the board: ready, sandboxed, within its memory, watched, held."""

import re
import time
from collections.abc import Callable
from typing import Any

from tests.board.fleet import rounds
from tests.board.machine import Board, Broken
from tests.board.progress import say
from tests.joined_fleet import Fleet

_EDGE = "qflare-edge"


def trains(board: Board, fleet: Fleet, when: str, within_s: float = 300) -> None:
    """A round that began from now on has both devices' updates."""
    before = len(rounds(fleet))

    def both() -> bool:
        return any(round_["admitted"] == 2 for round_ in rounds(fleet)[before:])

    try:
        until(both, f"no round with the board {when}", within_s)
    except AssertionError as error:
        raise Broken(f"{error}\n{rounds(fleet)[-3:]}") from None
    say(f"its update counted, {when}")


def until(condition: Callable[[], Any], what: str, within_s: float) -> None:
    """Wait for something that isn't on the board."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(1)


def show(board: Board, name: str) -> str:
    """A property of the daemon's unit."""
    return board.run(f"systemctl show {_EDGE} -p {name} --value")


def is_sandboxed(board: Board) -> None:
    pid = show(board, "MainPID")
    status = board.run(f"cat /proc/{pid}/status")
    assert re.search(r"CapBnd:\s+0000000000000000", status)
    assert re.search(r"NoNewPrivs:\s+1", status)
    assert re.search(r"Seccomp:\s+2", status)
    assert board.run(f"stat -c %U /proc/{pid}") == "qflare"
    for path in ("/usr/x", "/etc/x", "/opt/x", "/home/x", "/dev/x"):
        said = board.run(f"nsenter -t {pid} -m touch {path}", check=False)
        assert re.search("Read-only|denied|No such", said), (path, said)
    exposure = board.run(f"systemd-analyze security {_EDGE} --no-pager | tail -1")
    found = re.search(r"exposure level for qflare-edge.service: ([\d.]+)", exposure)
    assert found, exposure
    assert float(found.group(1)) <= 1.2
    assert "online" in show(board, "StatusText")


def survives_a_full_memory(board: Board, fleet: Fleet) -> None:
    """The kernel ends the training process, a round is lost, and the daemon goes on."""
    limit = int(show(board, "MemoryMax"))
    assert limit < 768 * 2**20  # of the unit: a share of the board's memory
    own = board.run(f"awk '/RssAnon/ {{print $2}}' /proc/{show(board, 'MainPID')}/status")
    # Enough for the daemon, and not for a training process beside it. It isn't running meanwhile: a
    # training process that just ends still counts, and leaves nobody but the daemon to be killed.
    low = f"MemoryMax={int(own) + 20 * 1024}K"
    board.run(
        f"systemctl stop {_EDGE} && systemctl set-property --runtime {_EDGE} {low}"
        f" && systemctl start {_EDGE}"
    )
    pid = show(board, "MainPID")
    events = f"cat /sys/fs/cgroup/system.slice/{_EDGE}.service/memory.events"
    board.until(events, r"oom_kill [1-9]")
    board.until(f"journalctl -u {_EDGE} --no-pager -o cat | tail -50", "memory")
    assert show(board, "MainPID") == pid
    board.run(f"systemctl set-property --runtime {_EDGE} MemoryMax={limit}")
    trains(board, fleet, "after the memory was full")


def is_restarted_when_it_hangs(board: Board) -> None:
    board.run(f"mkdir -p /run/systemd/system/{_EDGE}.service.d")
    board.write(
        f"/run/systemd/system/{_EDGE}.service.d/soon.conf",
        "[Service]\nWatchdogSec=20\nTimeoutAbortSec=5\nRestartSec=1\n",
    )
    board.run(f"systemctl daemon-reload && systemctl restart {_EDGE}")
    pid = show(board, "MainPID")
    board.run(f"kill -STOP {pid}")
    board.until(f"systemctl show {_EDGE} -p NRestarts --value", "^1$")
    board.until(f"systemctl is-active {_EDGE}", "^active")
    assert "watchdog" in board.run(f"journalctl -u {_EDGE} --no-pager -o cat").lower()


def stops_as_asked(board: Board) -> None:
    board.run(f"systemctl stop {_EDGE}")
    assert (show(board, "Result"), show(board, "ExecMainStatus")) == ("success", "0")


def says_no_secret(board: Board) -> None:
    """Nor does it end in a traceback anywhere in its life."""
    journal = board.run("journalctl -u 'qflare-*' --no-pager -o cat")
    assert "Traceback" not in journal, journal[-3000:]
    assert board.run("cat /etc/qflare/broker.password") not in journal
