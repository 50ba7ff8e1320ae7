"""Make a device forget: its keys first, then all that is on the disk of it.

What was encrypted can't be read any more from the moment that `storage.seal` and the keys are
gone. What wasn't is removed, and no more than that: flash memory writes elsewhere, so that
overwriting promises nothing; whoever takes the card apart may find it until it is overwritten by
chance. Each step may be repeated, so that an interrupted run is ended by another one.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.slots import ACTIVE
from edge_runtime.slots import STATE as SLOTS
from edge_runtime.storage.database import FILES
from edge_runtime.storage.guard import Guard
from edge_runtime.storage.health import used_bytes
from edge_runtime.storage.sealing import SEAL, OwnerKeys, read_seal
from edge_runtime.storage.vault import Vault
from edge_runtime.store import FORGETTING, GUARD
from qflare.faults import LocalFault
from qflare.host.files import sync_dir, take_lock, write_atomic

LOCK: Final = "lock"
# In folders that may hold what isn't ours; .*.tmp is what a cut left of a file to be.
OF_RING: Final = ("[0-9]*.seg", ".*.tmp", LOCK)
OF_SLOTS: Final = (ACTIVE, SLOTS, "slots", ".*.tmp", LOCK)


@dataclass(frozen=True)
class Target:
    """Something that goes: a file or folder, or, with `only`, what is so named in a folder."""

    kind: str
    path: Path
    only: tuple[str, ...] = ()

    def paths(self) -> list[Path]:
        """What there is of it."""
        if self.only:
            found = {path for name in self.only for path in self.path.glob(name)}
            return sorted(found)
        drafts = self.path.parent.glob(f".{_literal(self.path.name)}.*.tmp")
        here = [self.path] if os.path.lexists(self.path) else []
        return [*here, *sorted(drafts)]

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(map(_size, self.paths()))


@dataclass(frozen=True)
class Plan:
    """What is to go. The guard stays with the identity: it keeps a device from answering twice."""

    state: Path
    keys: tuple[Path, ...] = ()  # of encryption, destroyed first
    identity: tuple[Path, ...] = ()
    ring: Path | None = None  # folder of collected samples
    slots: Path | None = None  # folder of models for applications
    logs: tuple[Path, ...] = ()
    owners: tuple[Path, ...] = ()  # the owner's own data, which is to go with the rest
    kept: tuple[Path, ...] = ()  # the owner's own data that stays, wherever it is
    keep_identity: bool = False

    def targets(self) -> Iterator[Target]:
        """All that is there, in the order in which it goes."""
        targets = [Target("key", self.state / SEAL), *(Target("key", path) for path in self.keys)]
        if not self.keep_identity:
            targets += (Target("identity", path) for path in self.identity)
        if self.ring is not None:
            targets.append(Target("samples", self.ring, OF_RING))
        targets += (Target("data", path) for path in self.owners)
        targets += (Target("state", path) for path in self._state_files())
        if self.slots is not None:
            targets.append(Target("state", self.slots, OF_SLOTS))
        targets += (Target("log", path) for path in self.logs)
        return (target for target in targets if target.paths())

    def _state_files(self) -> list[Path]:
        if not self.state.is_dir():
            return []
        kept = {LOCK, FORGETTING, SEAL} | ({GUARD} if self.keep_identity else set())
        own = {self.ring, self.slots}  # which go by themselves
        found = [p for p in self.state.iterdir() if p.name not in kept and p not in own]
        return sorted(path for path in found if not (self._holds_data(path) or _is_device(path)))

    def _holds_data(self, path: Path) -> bool:
        return any(kept.is_relative_to(path) for kept in self.kept)

    @property
    def rest(self) -> tuple[Path, ...]:
        """The owner's data that stays."""
        return tuple(path for path in self.kept if path.exists())


@dataclass(frozen=True)
class Gone:
    """One thing that was erased."""

    kind: str
    path: Path
    size: int  # bytes on the disk
    encrypted: bool  # it can't be read whatever a card's spare blocks still hold


def forget(plan: Plan, owner: OwnerKeys | None = None) -> list[Gone]:
    """Erase; return what was. `owner`: the key of an encrypted device that keeps its identity.

    Raises LocalFault if the daemon or the collector runs, if the guard can't be kept for want of
    its key, or for what can't be removed; then run it again.
    """
    for path in plan.owners:
        if any(ours.is_relative_to(path) for ours in (plan.state, *plan.identity, *plan.keys)):
            raise LocalFault(
                f"{path} holds more than samples; nothing was erased. Erase it yourself"
            )
    if not plan.state.is_dir() and not list(plan.targets()):
        return []
    plan.state.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may be another user's: sudo
    with _alone(plan.state), ExitStack() as others:
        for target in plan.targets():
            others.enter_context(_untouched(target.path))
        sealed = (plan.state / SEAL).exists()
        if plan.keep_identity:
            _open_guard(plan.state, owner or OwnerKeys())
        write_atomic(plan.state / FORGETTING, b"run `qflare device forget` again\n")
        gone = []
        for target in list(plan.targets()):
            if not target.paths():
                continue  # it was in a folder that is gone
            gone.append(_describe(target, sealed))
            for path in target.paths():
                _remove(path, overwrite=target.kind in ("key", "identity"))
            if target.only:
                with suppress(OSError):  # somebody else's files are in it, or it is a mount point
                    target.path.rmdir()
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
    """Keep a folder's own writer out, such as the collector of samples or qflare-provisiond."""
    if not (path / LOCK).is_file():
        yield
        return
    busy = f"{path} is in use; stop what works there first: systemctl stop 'qflare-*'"
    lock = take_lock(path / LOCK, busy)
    try:
        yield
    finally:
        os.close(lock)


def _is_device(path: Path) -> bool:
    """Is it another device's state directory, as those of qflare-edge@NAME are in this one?"""
    return any((path / name).exists() for name in (GUARD, SEAL, FORGETTING, FILES[0]))


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


def _describe(target: Target, sealed: bool) -> Gone:
    name = target.path.name
    private = target.kind == "state" and (name.startswith("device.sqlite") or name == GUARD)
    private |= target.kind == "samples" and all(map(_is_sealed, target.path.glob(OF_RING[0])))
    return Gone(target.kind, target.path, target.size, sealed and private)


def _is_sealed(path: Path) -> bool:
    from edge_runtime.sources.ring import is_sealed

    return is_sealed(path)


def _literal(name: str) -> str:
    """For a pattern that means just this name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _size(path: Path) -> int:
    return used_bytes(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size


def _remove(path: Path, overwrite: bool) -> None:
    """Remove a file or a folder durably; a key is overwritten first, for disks where that helps."""
    try:
        if path.is_dir() and not path.is_symlink():
            _remove_tree(path)
        else:
            if overwrite and path.is_file() and not path.is_symlink():
                _overwrite(path)
            path.unlink(missing_ok=True)
        sync_dir(path.parent)
    except OSError as error:
        raise LocalFault(
            f"{path}: {error.strerror}; it was not erased. Make it writable and run this again"
        ) from None


def _remove_tree(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        if error.errno != errno.EBUSY or any(path.iterdir()):  # busy: a mount point, which stays
            raise


def _overwrite(path: Path) -> None:
    # Root may be at work in a folder of the daemon's user: no link of theirs is followed.
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.pwrite(file, bytes(os.fstat(file).st_size), 0)
        os.fsync(file)
    finally:
        os.close(file)
