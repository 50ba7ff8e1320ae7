"""Whether a version that was just started is good. I/O through what is passed in.

Good is a daemon that has reached the broker and has run for a while since its start: `STEADY` of
the time that it has for that. One that is ready but can't reach the broker is good too if the
updater can't reach the broker's port either: then the network is away, and nothing speaks against
the release. If the port answers and the daemon isn't online in time, the release is at fault.
"""

import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from edge_runtime.upgrade.health import Healthy, boot_id, read_health
from qflare.faults import LocalFault
from qflare.host.link_types import parse_url

HEALTH_S: Final = 600.0
STEADY: Final = 1 / 20
_LOOK_S: Final = 1.0
_RESTART_S: Final = 300.0
_REACH_S: Final = 10.0
UNIT: Final = "qflare-edge.service"


class Trial(Protocol):
    """Starts the daemon anew, and judges it."""

    def restart(self) -> str:
        """Start the daemon of `current`; return why that failed, empty if it didn't."""
        ...

    def judge(self, version: str) -> str:
        """Why that version is no good; empty if it is good. Takes minutes."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and sleep, for tests to replace. Seconds since boot."""

    now: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class SystemdTrial:
    """The trial under systemd, or under whatever `command` starts the daemon by."""

    state_dir: Path
    brokers: tuple[str, ...]
    command: tuple[str, ...] = ("systemctl", "restart", UNIT)
    health_s: float = HEALTH_S
    clock: Clock = Clock()

    def restart(self) -> str:
        if not self.command:
            return ""
        try:
            done = subprocess.run(
                self.command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_RESTART_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{shlex.join(self.command)} took longer than {_RESTART_S:.0f} s"
        except OSError as error:
            return f"{shlex.join(self.command)}: {error.strerror}"
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
        return f"{shlex.join(self.command)}: {said}" if done.returncode else ""

    def judge(self, version: str) -> str:
        begun = self.clock.now()
        while True:
            said = self._said(version)
            lasting = self.health_s * STEADY
            steady = said is not None and self.clock.now() - said.started >= lasting
            if said is not None and steady and said.online:
                return ""
            if self.clock.now() - begun >= self.health_s:
                break
            self.clock.sleep(_LOOK_S)
        within = f"within {self.health_s:.0f} s"
        if said is None:
            return f"the daemon wasn't ready {within}"
        if not steady:
            return f"the daemon started again and again {within}"
        if any(map(_answers, self.brokers)):
            return f"the daemon didn't reach the broker {within}, though the broker answers"
        return ""

    def _said(self, version: str) -> Healthy | None:
        said = read_health(self.state_dir)
        if said is None or said.version != version or said.boot != boot_id():
            return None
        return said


def _answers(url: str) -> bool:
    with suppress(OSError, LocalFault):
        address = parse_url(url)
        socket.create_connection((address.host, address.port), _REACH_S).close()
        return True
    return False


def restart_command(text: str | None, unit: str) -> Sequence[str]:
    """How the daemon is started: `text` as a shell would split it, or systemd's way."""
    if text is not None:
        return shlex.split(text)
    return ("systemctl", "restart", unit)
