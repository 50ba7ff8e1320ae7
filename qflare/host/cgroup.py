"""Whether the kernel limits this process's memory: systemd says nothing when it can't.

Raspberry Pi OS ships with the memory cgroup off, and then `MemoryMax=` of a unit is ignored without
a word (raspberrypi/linux#6980). Whoever relies on a limit asks here first.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_CEILING: Final = 64 * 1024
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_NONE_V1: Final = 2**62  # version 1 says "no limit" by a number close to 2**63

_OFF_PI: Final = (
    "add cgroup_enable=memory to cmdline.txt (sudo qflare board apply --write does it), then "
    "restart the board"
)
_OFF: Final = (
    "take cgroup_disable=memory from the kernel's command line or add cgroup_enable=memory to it, "
    "then restart; until then QFLARE keeps its own limits alone"
)
_UNIT: Final = "set MemoryMax= in the unit; qflare-edge.service does"


@dataclass(frozen=True, slots=True)
class Limit:
    """The kernel ends a process of this group when it has more than `bytes` together."""

    bytes: int
    group: str


@dataclass(frozen=True, slots=True)
class NotEnforced:
    """There is no such limit: why, and what to do about it."""

    reason: str
    remedy: str


def memory_limit(root: Path = Path("/")) -> Limit | NotEnforced:
    """The least limit of this process's control group and of those around it. Never raises."""
    off = memory_controller(root)
    if off is not None:
        return off
    groups = _groups(root)
    unified = root / "sys/fs/cgroup"
    if (unified / "cgroup.controllers").exists():
        return _least(unified, groups.get("", "/"), "memory.max")
    return _least(unified / "memory", groups.get("memory", "/"), "memory.limit_in_bytes")


def memory_controller(root: Path = Path("/")) -> NotEnforced | None:
    """None if the kernel can limit memory at all; else why it can't. Never raises."""
    mount = root / "sys/fs/cgroup"
    controllers = _read(mount / "cgroup.controllers")
    if controllers is None:
        if _read(mount / "memory/memory.limit_in_bytes") is not None:  # version 1
            return None
        if not mount.is_dir():
            return NotEnforced("there are no control groups here", _OFF)
    elif "memory" in controllers.split():
        return None
    return NotEnforced("the kernel's memory cgroup is off", _remedy(root))


def _least(mount: Path, group: str, file: str) -> Limit | NotEnforced:
    """The least limit from `group` up to the root of the mount."""
    found: list[Limit] = []
    for place in _upwards(group):
        value = _read(mount / place.lstrip("/") / file)
        if value is not None and _NUMBER.fullmatch(value.strip()) and int(value) < _NONE_V1:
            found.append(Limit(int(value), place))
    if not found:
        return NotEnforced(f"no control group of this process ({group}) has a limit", _UNIT)
    return min(found, key=lambda limit: limit.bytes)


def _upwards(group: str) -> list[str]:
    path = PurePosixPath(group)
    if ".." in path.parts:  # what a process in a namespace of its own may see of outer groups
        return ["/"]
    return [str(place) for place in (path, *path.parents)]


def _groups(root: Path) -> dict[str, str]:
    """This process's group by controller; "" is the unified hierarchy. See cgroups(7)."""
    found: dict[str, str] = {}
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and path.startswith("/"):
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _remedy(root: Path) -> str:
    tree = _read(root / "sys/firmware/devicetree/base/compatible") or ""
    return _OFF_PI if "raspberrypi" in tree else _OFF


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_CEILING).decode("utf-8", "replace")
    except (OSError, ValueError):  # ValueError: a NUL in a path that the kernel's file named
        return None
