"""How much memory training may take, and who sees to it: the kernel for the unit, or we alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edge_runtime.gates.files import Unreadable, text
from qflare.host.boards.profile import Board
from qflare.host.cgroup import NotEnforced, memory_controller, memory_limit

UNKNOWN_MIB: Final = 512  # on a machine without a profile
LEAST_MIB: Final = 64
_SHARE: Final = 0.5  # of the machine's memory: what the unit says by MemoryMax=


def training_mib(wanted: int | None, board: Board | None, root: Path = Path("/")) -> int:
    """MiB of private memory for the training process: what is `wanted`, or as the board has it.

    Where the kernel doesn't limit the unit, no more than its limit would have been.
    """
    mib = wanted or (UNKNOWN_MIB if board is None else board.memory.training_mib)
    total = _total_mib(root)
    if total is None or memory_controller(root) is None:
        return mib
    return max(LEAST_MIB, min(mib, int(total * _SHARE)))


def unlimited(environ: Mapping[str, str], root: Path = Path("/")) -> NotEnforced | None:
    """Why the kernel doesn't limit this service's memory; None if it does.

    What isn't a service of systemd (which sets $INVOCATION_ID) has no MemoryMax= to miss.
    """
    if "INVOCATION_ID" not in environ:
        return None
    found = memory_limit(root)
    return found if isinstance(found, NotEnforced) else None


def notice(environ: Mapping[str, str], root: Path = Path("/")) -> str:
    """The same for the operator, in the device's state; empty if there is nothing to say."""
    off = unlimited(environ, root)
    return "" if off is None else f"MemoryMax= does nothing: {off.reason}; {off.remedy}"


def _total_mib(root: Path) -> int | None:
    try:
        words = (text(root / "proc/meminfo") or "").split()
    except Unreadable:
        return None
    if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdecimal():
        return int(words[1]) // 1024
    return None
