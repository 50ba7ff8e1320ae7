"""What trials inside the machine have in common; it is copied there. Standard library only."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_KEYS = "ActiveState,SubState,Result,StatusText,MainPID,NRestarts,ExecMainStatus,LimitCORE"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def systemctl(*arguments: str) -> str:
    """What it says, either way."""
    done = run("/usr/bin/systemctl", "--no-pager", *arguments)
    return (done.stdout + done.stderr).strip()


def show(unit: str) -> dict[str, str]:
    lines = systemctl("show", f"--property={_KEYS}", unit).splitlines()
    return dict(line.split("=", 1) for line in lines)


def journal(*units: str) -> str:
    names = [word for unit in units for word in ("-u", unit)]
    return run("/usr/bin/journalctl", "--no-pager", "-o", "cat", *names).stdout


def wait_for(condition: Callable[[], object], within: float = 60.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
