"""`qflare board check`: what of a board is not as it should be, and what to do about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.boards import facts, plan
from qflare.host.boards.profile import Board
from qflare.host.boards.recognise import userland
from qflare.host.cgroup import memory_controller

_APPLY = "sudo qflare board apply --write, then restart the board"


class State(StrEnum):
    """UNKNOWN: only the running board could tell, or nothing there does."""

    OK = "ok"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` says what to do if it is wrong."""

    what: str
    state: State
    says: str
    remedy: str = ""


def check(board: Board, root: Path = Path("/"), boot: Path | None = None) -> list[Finding]:
    """Everything that is looked at, the most important first. Never raises for what it finds."""
    return [
        _bits(root),
        _memory(root),
        *_watchdog(board, root),
        *_files(board, root, boot),
        *_uart(board, root),
        *_power(board, root),
        _throttled(root),
        _clock(root),
    ]


def _bits(root: Path) -> Finding:
    found = userland(root)
    if found == "aarch64":
        return Finding("64-bit system", State.OK, "programs are 64-bit ARM ones")
    if found is None:
        return Finding("64-bit system", State.UNKNOWN, f"no program to look at below {root}")
    return Finding(
        "64-bit system",
        State.WRONG,
        f"programs are for {found}; QFLARE's packages exist for 64-bit ARM only",
        "write the 64-bit system to the card (Raspberry Pi Imager has it), then provision anew",
    )


def _memory(root: Path) -> Finding:
    what = "memory can be limited"
    if root != Path("/") and not (root / "proc/self").exists():
        return Finding(what, State.UNKNOWN, "only the running board can tell")
    off = memory_controller(root)
    if off is None:
        return Finding(what, State.OK, "the kernel's memory cgroup is on")
    return Finding(what, State.WRONG, off.reason, off.remedy)


def _watchdog(board: Board, root: Path) -> Iterator[Finding]:
    limit = board.watchdog.max_seconds
    set_to = facts.runtime_watchdog(root)
    if set_to is None:
        yield Finding("watchdog", State.UNKNOWN, "RuntimeWatchdogSec= can't be understood")
    elif set_to == 0:
        yield Finding("watchdog", State.WRONG, "off: a board that hangs stays so", _APPLY)
    elif limit is not None and set_to > limit:
        yield Finding(
            "watchdog",
            State.WRONG,
            f"RuntimeWatchdogSec is {set_to:g} s, and the hardware takes {limit} s at most: "
            "the kernel refuses it, and there is no watchdog at all",
            _APPLY,
        )
    else:
        yield Finding("watchdog", State.OK, f"systemd restarts the board after {set_to:g} s")
    if (root / "sys/class").is_dir():
        found = facts.watchdog_devices(root)
        if found:
            yield Finding("watchdog device", State.OK, ", ".join(found))
        else:
            yield Finding(
                "watchdog device",
                State.WRONG,
                f"the kernel has none ({board.watchdog.driver} is expected)",
                "load its driver: add its name to /etc/modules-load.d/qflare.conf, then restart",
            )


def _files(board: Board, root: Path, boot: Path | None) -> Iterator[Finding]:
    try:
        where = plan.places(root, boot, board)
        changes = plan.changes(board, where, plan.Wishes())
    except LocalFault as fault:
        yield Finding("board's files", State.UNKNOWN, str(fault))
        return
    if changes:
        names = ", ".join(change.name for change in changes)
        says = f"not as {board.title}'s profile says: {names}"
        yield Finding("board's files", State.WRONG, says, _APPLY)
        return
    yield Finding("board's files", State.OK, "as the profile says")
    running = facts.running_words(root)
    if board.boot and running:
        waiting = [word for word in board.boot.words if word not in running]
        if waiting:
            yield Finding(
                "restart",
                State.WRONG,
                f"the kernel was started without {' '.join(waiting)}, which cmdline.txt now has",
                "restart the board",
            )


def _uart(board: Board, root: Path) -> Iterator[Finding]:
    if board.serial is None or not (root / "sys/class/tty").is_dir():
        return
    names = {port.name: port.tty for port in facts.ports(board, root)}
    tty = names[board.serial.sensor]
    if tty is None:
        yield Finding(
            "UART for a sensor",
            State.UNKNOWN,
            f"{board.serial.sensor} is not there; a sensor on the header's pins would want it",
            "only for such a sensor: sudo qflare board apply --serial sensor --write, then restart",
        )
    else:
        used = any(word.startswith(f"console={tty}") for word in facts.running_words(root))
        says = f"{board.serial.sensor} is /dev/{tty}" + ("; a console is on it" if used else "")
        yield Finding("UART for a sensor", State.OK, says)


def _power(board: Board, root: Path) -> Iterator[Finding]:
    if not board.power.modes:
        return
    mode = facts.power_mode(root)
    if mode is None:
        yield Finding("power mode", State.UNKNOWN, "nvpmodel says nothing", "sudo nvpmodel -q")
    else:
        yield Finding("power mode", State.OK, mode)


def _throttled(root: Path) -> Finding:
    found = facts.throttling(root)
    if found is None:
        return Finding("throttling", State.UNKNOWN, "nothing here tells")
    if not found:
        return Finding("throttling", State.OK, "none since the board started")
    remedy = "give it air or a heat sink"
    if any("voltage" in words for words in found):
        remedy = "use the maker's supply and a short cable"
    return Finding("throttling", State.WRONG, "; ".join(found), remedy)


def _clock(root: Path) -> Finding:
    found = facts.clock_is_set(root)
    if found is None:
        return Finding("clock", State.UNKNOWN, "only the running board can tell")
    if found:
        return Finding("clock", State.OK, "kept right over the network")
    return Finding(
        "clock",
        State.WRONG,
        "nothing keeps it right; certificates can't be judged until it is set",
        "let NTP through (UDP port 123), or name a server in /etc/systemd/timesyncd.conf",
    )
