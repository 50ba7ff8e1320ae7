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
    # A Unix socket's path holds 107 bytes, and a person's folder may be longer.
    sockets = Path(tempfile.mkdtemp(prefix="qflare-"))
    try:
        for old in ("state", "logs"):
            shutil.rmtree(workdir / old, ignore_errors=True)
        for old in ("report.html", "report.json", "report.png"):
            with suppress(FileNotFoundError):
                (workdir / old).unlink()
        yield Site(ensure_private_dir((workdir / "state").absolute()), sockets / "enclave.sock")
        if not keep:
            shutil.rmtree(workdir / "state", ignore_errors=True)
    finally:
        os.close(lock)
        shutil.rmtree(sockets, ignore_errors=True)
