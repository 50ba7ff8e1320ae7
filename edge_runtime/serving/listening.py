"""The Unix socket: systemd's, or one of our own."""

import os
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault
from qflare.host.config import ConfigFault

_FIRST: Final = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
BACKLOG: Final = 128


def inherited(environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The socket that systemd listens on for us; None if it doesn't.

    Raises LocalFault if it is not one listening Unix socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if environ.get("LISTEN_FDS") != "1":
        raise LocalFault("systemd gave more than one socket; name one ListenStream= in the unit")
    found = socket.socket(fileno=_FIRST)
    found.set_inheritable(False)
    listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM or not listening:
        raise LocalFault("systemd gave another socket; ListenStream= takes a path in the unit")
    return found


def bound(path: Path, group: int | None) -> socket.socket:
    """A socket of our own at `path`, for the owner and, if given, the group.

    One that a process left there when it ended is replaced. Raises ConfigFault for a place where
    that can't be, LocalFault if a process listens there already.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _clear(path)
        # Under another name until somebody listens: whoever finds the socket is let in.
        fresh = path.with_name(f".{path.name}.tmp")
        fresh.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            made.bind(str(fresh))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(fresh, -1, group)
            fresh.chmod(0o660)
        made.listen(BACKLOG)
        fresh.replace(path)
    except OSError as error:
        made.close()
        raise ConfigFault(
            f"{path}: serving.socket: {error.strerror or error}; name a path of at most 100 "
            "characters in a directory that this user may write to"
        ) from None
    except BaseException:
        made.close()
        raise
    return made


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigFault(f"{path}: serving.socket: something else is there; move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.settimeout(1.0)
            try:
                trial.connect(str(path))
            except (ConnectionRefusedError, TimeoutError):
                path.unlink()
                return
        raise LocalFault(f"{path}: another process answers there; stop it first")
