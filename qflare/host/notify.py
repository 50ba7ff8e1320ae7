"""Tell systemd how we are: sd_notify(3), and nothing at all when systemd isn't there."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send e.g. `notify("READY=1", "STATUS=waiting for a round")`; a no-op without NOTIFY_SOCKET.

    Never raises and never blocks: a lost status line is no reason to stop working.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as out:
        out.sendto("\n".join(assignments).encode(), address)


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to send WATCHDOG=1 (half of what systemd allows), or None when not asked for."""
    try:
        limit = int(environ.get("WATCHDOG_USEC", ""))
        pid = int(environ.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    return limit / 2e6 if limit > 0 and pid == os.getpid() else None
