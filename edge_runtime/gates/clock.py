"""Whether the wall clock is right, and in which zone the owner's hours are.

A Raspberry Pi has no clock battery: after a power cut it goes on from some time in the past until
a time server answers. The kernel knows (adjtimex), but a sandboxed service may not ask it.
"""

from datetime import UTC, tzinfo
from io import BytesIO
from pathlib import Path

from edge_runtime.gates.files import Unreadable, entries, number
from qflare.host.config import ConfigFault
from qflare.host.files import read_bounded

ZONE_CEILING = 64 * 1024  # bytes; the longest history of a zone has about 4000


def read_right(root: Path) -> bool | None:
    """Is the clock right? None if nobody can tell.

    True for systemd's file of a synchronised clock (systemd-time-wait-sync.service(8) makes it for
    every time service) and for a battery-backed clock that set the time at boot; False if
    systemd-timesyncd is still waiting for an answer.
    """
    synchronised = root / "run/systemd/timesync/synchronized"
    try:
        if synchronised.exists():
            return True
        for clock in entries(root / "sys/class/rtc", "rtc"):
            if number(clock / "hctosys") == 1:
                return True
        return False if synchronised.parent.is_dir() else None
    except (OSError, Unreadable):
        return None


def named_zone(name: str) -> tzinfo:
    """The zone of that name; raise ConfigFault if this system doesn't know it."""
    import zoneinfo  # only where there are windows

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigFault(
            f"gates.timezone: {name[:64]!r} is no time zone that this system knows; correct it, "
            "or install the package tzdata"
        ) from None


class LocalZone:
    """The system's zone, read again when /etc/localtime changes; UTC without that file."""

    def __init__(self, root: Path) -> None:
        self._path = root / "etc/localtime"
        self._read: tuple[tuple[int, int], tzinfo] | None = None

    def read(self) -> tzinfo:
        """Raise Unreadable for a file that is there and no zone."""
        import zoneinfo

        try:
            status = self._path.stat()
            stamp = status.st_ino, status.st_mtime_ns
            if self._read is None or self._read[0] != stamp:
                data = read_bounded(self._path, ZONE_CEILING)
                self._read = stamp, zoneinfo.ZoneInfo.from_file(BytesIO(data))
        except FileNotFoundError:
            return UTC
        except Exception as error:  # from_file raises whatever struct and its own parser do
            raise Unreadable(f"{self._path} is no time zone ({error})"[:200]) from None
        return self._read[1]
