"""What a training process takes from itself, first of all. I/O.

The device's real job comes first: training gives way to everything else (nice), may not fill the
memory (RLIMIT_DATA: private memory, without the files that are mapped), and is what the kernel
should kill when memory runs out all the same (oom_score_adj). It dies with its daemon
(PR_SET_PDEATHSIG), gains no rights (PR_SET_NO_NEW_PRIVS) and leaves no core with samples in it.
Sources: setrlimit(2), prctl(2), proc(5).
"""

import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
OOM_SCORE_MORE: Final = 500  # of 1,000


def die_with(parent: int) -> None:
    """End when the thread that started this process ends; at once if it is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def restrict(memory: int, nice: int, proc: Path = Path("/proc/self")) -> tuple[str, ...]:
    """Set the limits; what the machine (or a unit's sandbox) doesn't allow is told in words."""
    notes = []
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        notes.append("no_new_privs can't be set")
    for what, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CORE, 0)):
        try:
            _, hard = resource.getrlimit(what)
            most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(what, (most, most))
        except (OSError, ValueError) as error:
            notes.append(f"resource limit {what}: {error}")
    try:
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(mine, nice))
    except OSError as error:
        notes.append(f"nice {nice}: {error.strerror}")
    try:
        score = proc / "oom_score_adj"
        score.write_text(str(min(1000, int(score.read_text()) + OOM_SCORE_MORE)))
    except (OSError, ValueError) as error:
        notes.append(f"oom_score_adj: {error}")
    return tuple(notes)
