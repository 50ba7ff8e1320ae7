"""The folder of a run: one run at a time, and nothing of a crashed one stands in the way."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir
from qflare.simulate.provision import Site


@contextmanager
def claim(workdir: Path, keep: bool) -> Iterator[Site]:
    """Hold `workdir` for this run and yield where its state goes.

    State (keys, databases, spools) is removed at the end unless `keep`; logs and reports stay.
    What an earlier run left is removed first. Raises LocalFault if a living run holds the folder,
    or if it can't be made or written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalFault(
            f"cannot use {workdir}: {error.strerror}; give another --workdir"
        ) from None
    # A Unix socket's path holds 107 bytes, and a person's folder may be longer.
    sockets = Path(tempfile.mkdtemp(prefix="qflare-"))
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LocalFault(
                f"a simulation is running in {workdir}; wait for it, or give another --workdir"
            ) from None
        for old in ("state", "logs"):
            shutil.rmtree(workdir / old, ignore_errors=True)
        for old in ("report.html", "report.json", "report.png"):
            with suppress(FileNotFoundError):
                (workdir / old).unlink()
        yield Site(ensure_private_dir((workdir / "state").absolute()), sockets / "enclave.sock")
        if not keep:
            shutil.rmtree(workdir / "state", ignore_errors=True)
    finally:
        os.close(descriptor)
        shutil.rmtree(sockets, ignore_errors=True)
