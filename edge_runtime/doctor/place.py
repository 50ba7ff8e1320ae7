"""The state directory and the disk under it, the clock, the kernel's limits and the board."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_runtime.doctor.finding import Finding, State, bad, ok, skipped, warn

_ROOT: Final = Path("/")


def check_disk(state_dir: Path, root: Path = _ROOT) -> Iterator[Finding]:
    """Is there a directory that lasts, with room in it, on a disk that isn't worn?"""
    from edge_runtime.storage.health import LOW_BYTES, storage_health

    if not state_dir.exists():
        yield skipped("state", f"{state_dir} isn't there yet", "the daemon makes it when it starts")
        return
    status = state_dir.stat()
    if status.st_mode & 0o077:
        remedy = f"sudo chmod 700 {state_dir}"
        yield bad(
            "state", f"{state_dir} is open to other users ({status.st_mode & 0o777:o})", remedy
        )
    if not os.access(state_dir, os.R_OK | os.X_OK):
        yield skipped("state", f"{state_dir} is the daemon's alone", "run it as root (sudo)")
        return
    health = storage_health(state_dir, root)
    fatal = health.read_only or not health.persistent or health.free < LOW_BYTES
    for warning in health.warnings:
        words, _, remedy = warning.rpartition("; ")
        make = bad if fatal else warn
        yield make("disk", words or warning, remedy if words else "see docs/technician.md")
    if not health.warnings:
        wear = "" if health.wear_percent is None else f"; {health.wear_percent} % worn at most"
        kind = f"{health.device or 'disk'}, {health.kind or 'unknown file system'}"
        yield ok("disk", f"{kind}, {health.free / 1e9:.1f} GB free{wear}")


def check_clock(root: Path = _ROOT) -> Finding:
    """Can certificates be judged?"""
    from qflare.host.boards.facts import clock_is_set as kept_right
    from qflare.host.tls import clock_is_set

    remedy = "let NTP through (UDP port 123), or name a server in /etc/systemd/timesyncd.conf"
    if not clock_is_set():
        return bad("clock", "it stands before this release was made", remedy)
    right = kept_right(root)
    if right is None:
        return skipped("clock", "it is set; whether it is kept right can't be seen here")
    if not right:
        return warn("clock", "it is set, and nothing keeps it right", remedy)
    return ok("clock", "kept right over the network")


def check_board(root: Path = _ROOT) -> Iterator[Finding]:
    """What the board's profile asks for: cgroup, watchdog, UART, throttling, 64 bits."""
    from qflare.host.boards import check as boards
    from qflare.host.boards import detect
    from qflare.host.cgroup import memory_controller

    board = detect(root)
    if board is None:
        yield skipped("board", "no profile fits this machine", "qflare board detect says more")
        off = memory_controller(root)
        if off is None:
            yield ok("memory limit", "the kernel can limit memory")
        else:
            yield warn("memory limit", off.reason, off.remedy)
        yield check_watchdog(root)
        yield check_bits()
        return
    yield ok("board", board.title)
    states = {"ok": State.OK, "wrong": State.WARN, "unknown": State.SKIPPED}
    for found in boards.check(board, root):
        state = states[found.state.value]
        if found.what == "clock":
            continue  # looked at already
        if found.what == "64-bit system" and state is State.WARN:
            state = State.BAD
        yield Finding(found.what, state, found.says, found.remedy)


def check_watchdog(root: Path = _ROOT) -> Finding:
    """Does something restart a board that hangs, where no profile says by what?"""
    from qflare.host.boards import facts

    name, devices = "watchdog", facts.watchdog_devices(root)
    if not devices:
        return skipped(name, "the kernel has no watchdog device")
    seconds = facts.runtime_watchdog(root)
    if not seconds:
        remedy = "RuntimeWatchdogSec=15 in a file of /etc/systemd/system.conf.d, then restart"
        return warn(name, f"{', '.join(devices)}, and nobody feeds it", remedy)
    return ok(name, f"{', '.join(devices)}: systemd restarts the board after {seconds:g} s")


def check_bits(machine: str | None = None, pointer: int | None = None) -> Finding:
    """Is this a 64-bit user space on a processor that has wheels?"""
    import struct

    machine = os.uname().machine if machine is None else machine
    bits = 8 * (struct.calcsize("P") if pointer is None else pointer)
    if bits == 64 and machine in ("aarch64", "x86_64"):
        return ok("64-bit system", machine)
    return bad(
        "64-bit system",
        f"{bits}-bit programs on {machine}: QFLARE's packages don't exist for that",
        "write the 64-bit system to the card, then provision anew",
    )
