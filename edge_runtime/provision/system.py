"""The few things that provisioning does to the system around it. I/O."""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PATIENCE: Final = 60.0  # seconds for a command of the system
_DAEMON: Final = "qflare-edge.service"
_OURSELVES: Final = "qflare-provisiond.service"


def run(command: tuple[str, ...]) -> str | None:
    """Run a command of the system; what went wrong in words, None if nothing did."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        return f"no command {command[0]} here"
    except subprocess.TimeoutExpired:
        return f"no end after {_PATIENCE:.0f} s"
    except OSError as error:
        return str(error.strerror)
    if done.returncode:
        words = " ".join(done.stdout.decode(errors="replace").split())
        return words[-300:] or f"ended with code {done.returncode}"
    return None


def set_clock(seconds: float) -> None:
    """Set the system's clock; PermissionError without the right (CAP_SYS_TIME)."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


@dataclass(frozen=True)
class System:
    """The device as provisioning sees it. Tests give another root and functions of their own.

    `config` is where the daemon's configuration and identity go, `data` where the daemon remembers,
    `state` where provisioning does: not below `data`, which belongs to the daemon's user.
    """

    config: Path = Path("/etc/qflare")
    state: Path = Path("/var/lib/qflare-provision")
    data: Path = Path("/var/lib/qflare")
    root: Path = Path("/")
    run: Callable[[tuple[str, ...]], str | None] = run
    set_clock: Callable[[float], None] = set_clock
    clock: Callable[[], float] = time.time

    @property
    def has_systemd(self) -> bool:
        """Is systemd this system's init?"""
        return (self.root / "run/systemd/system").is_dir()

    def start_daemon(self) -> str | None:
        """Start the device's daemon, now and at every boot; what went wrong, or None."""
        if not self.has_systemd:
            return "systemd isn't running here; start qflare-edge yourself"
        enabled = self.run(("systemctl", "enable", _DAEMON))
        return enabled or self.run(("systemctl", "start", "--no-block", _DAEMON))

    def go_on_in_background(self) -> str | None:
        """Let the unit enrol by itself when there is a network; what went wrong, or None."""
        if not self.has_systemd:
            return "systemd isn't running here; leave qflare-provisiond running"
        return self.run(("systemctl", "start", "--no-block", _OURSELVES))


def shred(path: Path) -> None:
    """Overwrite a file with zeros and remove it.

    On flash memory the old bytes may stay in blocks that the system can't reach: a ticket is
    worthless once it is used, and that is what protects it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        os.write(descriptor, bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
