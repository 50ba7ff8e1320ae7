"""Make a device forget: its keys first, then all that is on the disk of it.

What was encrypted can't be read any more from the moment that `storage.seal` and the keys are
gone. What wasn't is removed, and no more than that: flash memory writes elsewhere, so that
overwriting promises nothing; whoever takes the card apart may find it until it is overwritten by
chance. Each step may be repeated, so that an interrupted run is ended by another one.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.storage.guard import Guard
from edge_runtime.storage.health import used_bytes
from edge_runtime.storage.sealing import SEAL, OwnerKeys, read_seal
from edge_runtime.storage.vault import Vault
from edge_runtime.store import FORGETTING, GUARD
from qflare.faults import LocalFault
from qflare.host.files import sync_dir, take_lock, write_atomic

LOCK: Final = "lock"


@dataclass(frozen=True)
class Plan:
    """What is to go. The guard stays with the identity: it keeps a device from answering twice."""

    state: Path
    keys: tuple[Path, ...]  # of encryption, destroyed first
    identity: tuple[Path, ...]
    samples: tuple[Path, ...]
    keep_identity: bool

    def targets(self) -> Iterator[tuple[str, Path]]:
        """Kind and path of all that is there, in the order in which it goes."""
        here = [self.state / SEAL]
        kinds: list[tuple[str, Iterable[Path]]] = [("key", (*here, *self.keys))]
        if not self.keep_identity:
            kinds.append(("identity", self.identity))
        kinds.append(("state", self._state_files()))
        kinds.append(("samples", self.samples))
        for kind, paths in kinds:
            for path in paths:
                if os.path.lexists(path):
                    yield kind, path

    def _state_files(self) -> list[Path]:
        if not self.state.is_dir():
            return []
        kept = {LOCK, FORGETTING, SEAL} | ({GUARD} if self.keep_identity else set())
        return sorted(path for path in self.state.iterdir() if path.name not in kept)


@dataclass(frozen=True)
class Gone:
    """One thing that was erased."""

    kind: str
    path: Path
    size: int  # bytes on the disk
    encrypted: bool  # it can't be read whatever a card's spare blocks still hold


def forget(plan: Plan, owner: OwnerKeys | None = None) -> list[Gone]:
    """Erase; return what was. `owner`: the key of an encrypted device that keeps its identity.

    Raises LocalFault if the daemon runs, if the guard can't be kept for want of its key, or for
    what can't be removed; then run it again.
    """
    if not plan.state.is_dir() and not list(plan.targets()):
        return []
    plan.state.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may be another user's: sudo
    with _alone(plan.state), ExitStack() as others:
        for _, path in plan.targets():
            others.enter_context(_untouched(path))
        sealed = (plan.state / SEAL).exists()
        if plan.keep_identity:
            _open_guard(plan.state, owner or OwnerKeys())
        write_atomic(plan.state / FORGETTING, b"run `qflare device forget` again\n")
        gone = []
        for kind, path in list(plan.targets()):
            size = _size(path)
            _remove(path, overwrite=kind in ("key", "identity"))
            gone.append(Gone(kind, path, size, sealed and kind == "state" and _encrypted(path)))
        (plan.state / FORGETTING).unlink()
        sync_dir(plan.state)
        if not plan.keep_identity:
            (plan.state / LOCK).unlink()
            with suppress(OSError):  # it may be a mount point, or not ours to remove
                plan.state.rmdir()
    return gone


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    lock = take_lock(
        state / LOCK, f"{state} is in use; stop the daemon first: systemctl stop qflare-edge"
    )
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _untouched(path: Path) -> Iterator[None]:
    """Keep a folder's own writer out, such as the collector of samples."""
    if not (path / LOCK).is_file():
        yield
        return
    lock = take_lock(path / LOCK, f"{path} is in use; stop what collects samples there first")
    try:
        yield
    finally:
        os.close(lock)


def _open_guard(state: Path, owner: OwnerKeys) -> None:
    """Write the guard without encryption: it names rounds and digests, and its key will be gone."""
    seal = read_seal(state, owner)
    if seal is None:
        return
    known = Guard(state / GUARD, seal.vault()).read()
    if known:
        Guard(state / GUARD, Vault()).reset(known[0])
        if os.geteuid() == 0:  # the daemon is another user, who goes on with this file
            owners = state.stat()
            os.chown(state / GUARD, owners.st_uid, owners.st_gid)


def _encrypted(path: Path) -> bool:
    return path.name.startswith("device.sqlite") or path.name == GUARD


def _size(path: Path) -> int:
    return used_bytes(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size


def _remove(path: Path, overwrite: bool) -> None:
    """Remove a file or a folder durably; a key is overwritten first, for disks where that helps."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            if overwrite and path.is_file() and not path.is_symlink():
                _overwrite(path)
            path.unlink(missing_ok=True)
        sync_dir(path.parent)
    except OSError as error:
        raise LocalFault(
            f"{path}: {error.strerror}; it was not erased. Make it writable and run this again"
        ) from None


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(os.fstat(file.fileno()).st_size))
        file.flush()
        os.fsync(file.fileno())
