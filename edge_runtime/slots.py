"""The model that applications use, and the one before it: directories, and a link that is switched.

    slots.json       what is true: the active model, the previous one, those that were refused
    slots/<digest>/  model.tflite, the application's file, and manifest.json about it; never changed
    active           a symbolic link to the active model's directory, switched by one rename

slots.json is replaced first and the link follows; `Slots` mends the link whenever it is opened. So
after a crash at any point the link leads to a whole model that was accepted, and a step that was
interrupted can be done again. The daemon, its training process and a technician's command use the
same directory; a lock orders them. No numpy: the daemon imports this.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta
from msgspec.structs import replace

from edge_runtime.acceptance import Scores
from qflare.faults import LocalFault, PeerFault
from qflare.host.files import read_bounded, sync_dir, take_lock, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode
from qflare.names import Digest

MODEL: Final = "model.tflite"
MANIFEST: Final = "manifest.json"
STATE: Final = "slots.json"
ACTIVE: Final = "active"
FORMAT: Final = 1
REFUSED_KEPT: Final = 16
FILE_CEILING: Final = 256 * 1024 * 1024  # bytes of model.tflite
_MANIFEST_CEILING: Final = 512 * 1024
_STATE_CEILING: Final = 64 * 1024
_BUSY_S: Final = 5.0
_Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Reason = Annotated[str, Meta(max_length=1000)]


class SlotManifest(Typed):
    """manifest.json: what an application has to know to use the file beside it.

    An input is `shape` values in `units`; the file takes a batch of them, each as (value - mean) /
    scale. `file` is the SHA-256 of model.tflite, `model` that of the weights as they were released.
    """

    model: _Hex
    graph: _Hex
    file: _Hex
    name: str
    version: int
    task: str
    input: dict[str, Any]  # qflare.host.model.manifest.Input, which takes more memory to import
    output: list[int]
    classes: list[str]
    batch: int
    examples: int = 0  # of the local validation part, when the model was checked
    correct: int = 0
    loss_sum: float = 0.0


class Refusal(Typed):
    """A model that doesn't become active here, and why."""

    model: _Hex
    reason: _Reason


class SlotState(Typed):
    """slots.json."""

    version: Annotated[int, Meta(ge=1, le=FORMAT)] = FORMAT
    active: _Hex | None = None
    previous: _Hex | None = None
    since: float = 0.0  # when the active model became so: seconds since 1970 by the device's clock
    round: int = 0  # that gave the active model; 0 if it isn't known
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """A model in its slot."""

    model: Digest
    directory: Path
    manifest: SlotManifest

    def read(self) -> bytes:
        """The application's file; LocalFault if it is damaged."""
        path = self.directory / MODEL
        try:
            data = read_bounded(path, FILE_CEILING)
        except OSError as error:
            raise LocalFault(f"{path}: {error.strerror}; the daemon will make it again") from None
        if str(Digest.of(data)) != self.manifest.file:
            raise LocalFault(f"{path} is damaged; the daemon will make it again")
        return data


def read_slot(directory: Path) -> Slot:
    """What is in a slot, by its manifest; LocalFault if that is missing or damaged.

    `directory` may be the link: it is followed once, so that both files are of one model.
    """
    path = directory / MANIFEST
    try:
        real = directory.resolve(strict=True)
        manifest = decode(SlotManifest, read_bounded(real / MANIFEST, _MANIFEST_CEILING))
        return Slot(Digest.parse(manifest.model), real, manifest)
    except FileNotFoundError:
        raise LocalFault(f"{path} isn't there; wait until a model was accepted here") from None
    except (OSError, LocalFault, Unfit, PeerFault) as error:
        raise LocalFault(f"{path}: {error}; the daemon will make it again") from None


def read_state(directory: Path) -> SlotState:
    """What is true in this directory now; nothing is changed there."""
    try:
        return decode(SlotState, read_bounded(directory / STATE, _STATE_CEILING))
    except FileNotFoundError:
        return SlotState()
    except (Unfit, LocalFault):
        # Bit rot. What can be known again is: the link says which model was active.
        return SlotState(active=_linked(directory / ACTIVE))


def _linked(link: Path) -> str | None:
    """The model that a link leads to."""
    with suppress(OSError, PeerFault):
        return str(Digest.parse(link.readlink().name))
    return None


class Slots:
    """One device's slots. Methods raise LocalFault, or OSError when the disk refuses."""

    def __init__(self, directory: Path, group: int | None = None) -> None:
        """Open or create, and bring to order what a crash left.

        The files are for the owner and for `group`, or for the group of the directory if it has
        the set-group-ID bit, which is how a sandboxed daemon can share them. Raises LocalFault if
        this user may not give them to that group.
        """
        self._dir, self._group = directory, group
        directory.parent.mkdir(parents=True, exist_ok=True)
        self._slots = directory / "slots"
        for place in (directory, self._slots):
            if not place.is_dir():
                self._make_dir(place)
        with self._alone():
            self._mend()

    @property
    def link(self) -> Path:
        """The stable path for applications."""
        return self._dir / ACTIVE

    @property
    def state(self) -> SlotState:
        """What is true now; other processes may change it."""
        return read_state(self._dir)

    @property
    def active(self) -> Slot | None:
        """The active model's slot, if there is one and its manifest can be read."""
        return self._slot(self.state.active)

    @property
    def previous(self) -> Slot | None:
        return self._slot(self.state.previous)

    @property
    def refused(self) -> frozenset[Digest]:
        """The models that aren't to be tried again."""
        return frozenset(Digest.parse(it.model) for it in self.state.refused)

    def sound(self, model: Digest) -> bool:
        """Is this model staged, and whole?"""
        try:
            self._slots_of(model).read()
        except LocalFault:
            return False
        return True

    def stage(self, model: Digest, file: bytes, manifest: SlotManifest) -> None:
        """Make a model's slot durable; it isn't active yet. Doing it again changes nothing."""
        with self._alone():
            place = self._slots / str(model)
            if self.sound(model):
                there = read_slot(place).manifest
                if there == manifest:
                    return
                if there.file == manifest.file:  # only the scores are others; it may be in use
                    self._write(place / MANIFEST, encode(manifest))
                    return
            fresh = self._slots / f".{model.short}.{secrets.token_hex(6)}.tmp"
            self._make_dir(fresh)
            for name, data in ((MODEL, file), (MANIFEST, encode(manifest))):
                self._write(fresh / name, data)
            sync_dir(fresh)
            if place.exists():
                old = self._slots / f".{model.short}.{secrets.token_hex(6)}.tmp"
                place.rename(old)
            fresh.rename(place)
            sync_dir(self._slots)
            self._sweep(self.state, also=str(model))

    def activate(self, model: Digest, round_: int, now: float) -> None:
        """Let the applications use this model, and keep the one before.

        `now` is the time of day. Raises LocalFault unless the model is staged and whole.
        """
        with self._alone():
            self._slots_of(model).read()
            state = self.state
            if state.active != str(model):
                kept = state.active if self._slot(state.active) else state.previous
                state = SlotState(
                    active=str(model),
                    previous=kept if kept != str(model) else None,
                    since=now,
                    round=round_,
                    refused=tuple(it for it in state.refused if it.model != str(model)),
                )
                self._put(state)
            self._point(state.active)
            self._sweep(state)

    def refuse(self, model: Digest, reason: str) -> None:
        """Remember that a model isn't to be tried again; it is not the active one."""
        with self._alone():
            state = self.state
            if str(model) == state.active:
                raise LocalFault("the active model can't be refused; roll back to another first")
            self._put(_refusing(state, str(model), reason))
            self._sweep(self.state)

    def rollback(self, reason: str, now: float) -> Slot:
        """Let the applications use the previous model again, and the active one never again.

        Raises LocalFault if there is no previous model, or if it is damaged.
        """
        with self._alone():
            state = self.state
            if state.active is None or state.previous is None:
                raise LocalFault(
                    "there is no model before the active one; wait for the next release"
                )
            slot = self._slots_of(Digest.parse(state.previous))
            slot.read()
            back = replace(state, active=state.previous, previous=None, since=now, round=0)
            state = _refusing(back, state.active, reason)
            self._put(state)
            self._point(state.active)
            self._sweep(state)
            return slot

    def lift(self, model: Digest) -> None:
        """Forget a refusal: the model is tried again when the daemon starts the next time."""
        with self._alone():
            state = self.state
            kept = tuple(it for it in state.refused if it.model != str(model))
            if len(kept) == len(state.refused):
                raise LocalFault(f"{model.short} isn't among the refused models; see: qflare slots")
            self._put(replace(state, refused=kept))

    # --- on the disk ---------------------------------------------------------------------------

    def _slots_of(self, model: Digest) -> Slot:
        slot = read_slot(self._slots / str(model))
        if slot.model != model:
            raise LocalFault(f"{slot.directory} holds another model; the daemon will make it again")
        return slot

    def _slot(self, model: str | None) -> Slot | None:
        with suppress(LocalFault):
            return None if model is None else self._slots_of(Digest.parse(model))
        return None

    def _put(self, state: SlotState) -> None:
        self._write(self._dir / STATE, encode(state))

    def _point(self, model: str | None) -> None:
        """Switch the link, durably."""
        if _linked(self.link) == model:
            return
        if model is None:
            self.link.unlink(missing_ok=True)
        else:
            fresh = self._dir / f".{ACTIVE}.{secrets.token_hex(6)}.tmp"
            fresh.symlink_to(Path("slots") / model)
            fresh.replace(self.link)
        sync_dir(self._dir)

    def _mend(self) -> None:
        for rest in self._dir.glob(".*.tmp"):
            rest.unlink()
        state = self.state
        active = state.active if self._slot(state.active) else None
        if active is None and state.active is not None:  # its slot was lost, or is damaged
            active = state.previous if self._slot(state.previous) else None
            state = replace(state, active=active, previous=None, round=0)
            self._put(state)
        self._point(active)
        self._sweep(state, staged=True)

    def _sweep(self, state: SlotState, also: str = "", staged: bool = False) -> None:
        """Remove slots that nobody needs; with `staged`, not those that wait to be activated."""
        wanted = {state.active, state.previous, also}
        refused = {it.model for it in state.refused}
        for place in list(self._slots.iterdir()):
            waits = staged and not place.name.startswith(".") and place.name not in refused
            if place.name not in wanted and not waits:
                shutil.rmtree(place, ignore_errors=True)

    def _write(self, path: Path, data: bytes) -> None:
        write_atomic(path, data, 0o640)
        self._share(path)

    def _make_dir(self, path: Path) -> None:
        before = os.umask(0o027)  # not chmod: that could take the set-group-ID bit away
        try:
            path.mkdir(mode=0o750)
        finally:
            os.umask(before)
        self._share(path)

    def _share(self, path: Path) -> None:
        """Give it to the group, unless the directory that it is in has done so."""
        if self._group is None or path.stat().st_gid == self._group:
            return
        try:
            os.chown(path, -1, self._group)
        except OSError as error:
            raise LocalFault(
                f"{path}: can't be given to group {self._group}: {error.strerror}; make this user "
                f"a member, or prepare {self._dir} with that group and mode 2750"
            ) from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process changes the slots meanwhile; LocalFault if one does for too long."""
        busy = f"{self._dir} is in use by another process for {_BUSY_S:.0f} s; try again"
        patience = time.monotonic() + _BUSY_S
        while True:
            try:
                lock = take_lock(self._dir / "lock", busy)
                break
            except LocalFault:
                if time.monotonic() > patience:
                    raise
                time.sleep(0.02)
        try:
            yield
        finally:
            os.close(lock)


def _refusing(state: SlotState, model: str, reason: str) -> SlotState:
    others = [it for it in state.refused if it.model != model]
    refused = (*others, Refusal(model, reason[:1000]))[-REFUSED_KEPT:]
    previous = None if state.previous == model else state.previous
    return replace(state, refused=refused, previous=previous)


def scores_of(manifest: SlotManifest) -> Scores:
    """What the model's check found when it was staged."""
    return Scores(manifest.examples, manifest.correct, manifest.loss_sum)
