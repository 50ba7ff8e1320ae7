"""A daemon's word that it runs: `<state>/update/healthy`, which an update on trial is judged by.

Written once it is ready, and again when it first reaches the broker: two small files at a start.
No numpy, no interpreter: the daemon imports this.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from qflare import __version__
from qflare.faults import LocalFault
from qflare.host.files import read_bounded, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode

FOLDER: Final = "update"
_NAME: Final = "healthy"
_MAX: Final = 4096
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Healthy(Typed):
    """`started` counts seconds since the boot that `boot` names, suspended ones too."""

    version: Annotated[str, Meta(max_length=64)]
    online: bool
    boot: Annotated[str, Meta(max_length=64)]
    started: Annotated[float, Meta(ge=0)]
    pid: Annotated[int, Meta(ge=0)]


class HealthNote:
    """What a daemon says of itself; `ready` and `online` may be called again and again."""

    def __init__(
        self,
        state_dir: Path,
        version: str = __version__,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._path = state_dir / FOLDER / _NAME
        self._version, self._started = version, clock()
        self._said: bool | None = None

    def ready(self) -> None:
        """The daemon is ready (READY=1 was sent)."""
        if self._said is None:
            self._say(False)

    def online(self) -> None:
        """It has reached the broker."""
        if not self._said:
            self._say(True)

    def _say(self, online: bool) -> None:
        said = Healthy(
            version=self._version,
            online=online,
            boot=boot_id(),
            started=self._started,
            pid=os.getpid(),
        )
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._path, encode(said), 0o600)
        except OSError:
            return  # a full disk: said again at the next occasion, and no reason not to work
        self._said = online


def read_health(state_dir: Path) -> Healthy | None:
    """What the daemon said last; None for nothing, or nothing that makes sense. Untrusted."""
    try:
        return decode(Healthy, read_bounded(state_dir / FOLDER / _NAME, _MAX))
    except (OSError, LocalFault, Unfit):
        return None


def boot_id() -> str:
    """This boot's name; empty where the kernel gives none."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
