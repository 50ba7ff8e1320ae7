"""The folder of a run: one run at a time, and nothing of a crashed one stands in the way."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir, take_lock
from qflare.simulate.provision import Site

_SOCKET_PATH_MAX = 107  # bytes that the path of a Unix socket may have, unix(7)
_SOCKET = "enclave.sock"
_SOCKETS = Path("state") / "sockets"  # where they are instead, if a person's folder is deeper


@contextmanager
def claim(workdir: Path, keep: bool) -> Iterator[Site]:
    """Hold `workdir` for this run and yield where its state goes.

    State (keys, databases, spools) is removed at the end unless `keep`; logs and reports stay.
    What an earlier run left is removed first. Raises LocalFault if a living run holds the folder,
    or if it can't be made or written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = take_lock(
            workdir / ".lock",
            f"a simulation is running in {workdir}; wait for it, or give another --workdir",
        )
    except OSError as error:
        raise LocalFault(
            f"cannot use {workdir}: {error.strerror}; give another --workdir"
        ) from None
    sockets = None
    try:
        _forget_sockets(workdir / _SOCKETS)
        for old in ("state", "logs"):
            shutil.rmtree(workdir / old, ignore_errors=True)
        for old in ("report.html", "report.json", "report.png"):
            with suppress(FileNotFoundError):
                (workdir / old).unlink()
        state = ensure_private_dir((workdir / "state").absolute())
        socket = state / _SOCKET
        if len(os.fsencode(socket)) > _SOCKET_PATH_MAX:
            sockets = tempfile.mkdtemp(prefix="qflare-")
            (workdir / _SOCKETS).symlink_to(sockets)  # so that the next run finds it after kill -9
            socket = Path(sockets) / _SOCKET
        yield Site(state, socket)
        if not keep:
            shutil.rmtree(workdir / "state", ignore_errors=True)
    finally:
        os.close(lock)
        if sockets:
            shutil.rmtree(sockets, ignore_errors=True)


def _forget_sockets(link: Path) -> None:
    """Remove the folder that a killed run left; whatever else the link leads to stays."""
    with suppress(OSError):
        folder = link.readlink()
        (folder / _SOCKET).unlink(missing_ok=True)
        folder.rmdir()
