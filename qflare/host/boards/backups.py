"""Writing a board's changes so that they can be taken back, byte for byte, after any interruption.

Each `apply` first makes a set durable, with what every file was, then replaces the files one by
one, each atomically. `revert` takes back the newest set. A file counts as ours for as long as it is
what the set says, before or after; what others changed since is refused, unless it is forced.

The boot partition is FAT: replacing a file there is as atomic as FAT's driver makes it.
"""

import hashlib
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.boards.plan import CEILING, Change, Place, Places, read
from qflare.host.files import read_bounded, sync_dir, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode

FOLDER: Final = "var/lib/qflare-board"
_LIST: Final = "set.json"
_LIST_CEILING: Final = 64 * 1024
_DIGEST = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Saved(Typed):
    """A file as it was: `saved` names the copy, None where there was no file."""

    place: Place
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    mode: Annotated[int, Meta(ge=0, le=0o7777)]
    saved: Annotated[str, Meta(pattern=r"^[0-9]{1,3}$")] | None
    before: _DIGEST | None
    after: _DIGEST
    made: tuple[str, ...] = ()  # directories that were made for it, the outermost first


class BackupSet(Typed):
    """Everything that one `apply` changed."""

    version: Literal[1]
    board: str
    files: tuple[Saved, ...]


def apply(changes: Sequence[Change], where: Places, board: str) -> Path:
    """Make the changes; return the set by which they can be taken back. LocalFault if it can't."""
    try:
        folder = _save(changes, where, board)
        for change in changes:
            path = where.path(change.place, change.name)
            _make_parents(path.parent)
            write_atomic(path, change.after, _mode(path, change))
    except OSError as error:
        raise LocalFault(
            f"{error.filename or where.root}: {error.strerror}; as root (sudo), and with the file "
            "system writable, it can be tried again; what was changed is taken back by "
            "qflare board revert"
        ) from None
    return folder


def sets(root: Path) -> list[Path]:
    """The sets that can be taken back, the oldest first."""
    try:
        found = [path for path in (root / FOLDER).iterdir() if path.name.isdecimal()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalFault(f"{root / FOLDER}: {error.strerror}; try it as root (sudo)") from None
    return sorted(found, key=lambda path: int(path.name))


def load(folder: Path) -> BackupSet:
    """The list of a set; LocalFault if it is damaged."""
    try:
        return decode(BackupSet, read_bounded(folder / _LIST, _LIST_CEILING))
    except (OSError, Unfit, LocalFault) as error:
        raise LocalFault(
            f"{folder}: this set of backups is damaged ({error}); "
            "restore the files from the system's image"
        ) from None


def revert(folder: Path, where: Places, force: bool = False) -> list[Path]:
    """Put the files of the set back as they were; return those that this changed.

    LocalFault, before anything is touched, for a file that others changed since and for a copy
    that is damaged. It can be interrupted anywhere and done again.
    """
    saved = load(folder)
    planned: list[tuple[Saved, Path, bytes | None]] = []
    for file in reversed(saved.files):
        path = where.path(file.place, file.name)
        now = _digest(read(path))
        if now not in (file.before, file.after) and not force:
            raise LocalFault(
                f"{path} was changed since qflare board apply; look at it, then use --force to "
                "have the old file all the same"
            )
        data = None if file.saved is None else read(folder / file.saved)
        if _digest(data) != file.before:
            raise LocalFault(f"{folder}: the copy of {path} is damaged; nothing was changed")
        if now != file.before:
            planned.append((file, path, data))
    try:
        for file, path, data in planned:
            if data is None:
                path.unlink()
                sync_dir(path.parent)
            else:
                write_atomic(path, data, file.mode)
        for file in saved.files:
            _remove_made(file, where)
        _forget(folder)
    except OSError as error:
        raise LocalFault(
            f"{error.filename}: {error.strerror}; try it as root (sudo), or again once the file "
            "system is writable"
        ) from None
    return [path for _, path, _ in planned]


def _save(changes: Sequence[Change], where: Places, board: str) -> Path:
    base = where.path("root", FOLDER)
    _make_parents(base.parent)
    base.mkdir(mode=0o700, exist_ok=True)
    known = sets(where.root)
    folder = base / f"{int(known[-1].name) + 1 if known else 1:04}"
    draft = base / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was cut off before it changed anything
    draft.mkdir(mode=0o700)
    files = []
    for i, change in enumerate(changes):
        path = where.path(change.place, change.name)
        if change.before is not None:
            if len(change.before) > CEILING:
                raise LocalFault(f"{path} is too large to be a file of the board")
            write_atomic(draft / str(i), change.before)
        files.append(
            Saved(
                place=change.place,
                name=change.name,
                mode=_mode(path, change),
                saved=None if change.before is None else str(i),
                before=_digest(change.before),
                after=hashlib.sha256(change.after).hexdigest(),
                made=_missing_parents(path, where, change.place),
            )
        )
    write_atomic(draft / _LIST, encode(BackupSet(version=1, board=board, files=tuple(files))))
    draft.rename(folder)
    sync_dir(base)
    return folder


def _missing_parents(path: Path, where: Places, place: Place) -> tuple[str, ...]:
    base = where.root if place == "root" or where.boot is None else where.boot
    missing = [parent for parent in reversed(path.parents) if not parent.exists()]
    return tuple(str(parent.relative_to(base)) for parent in missing)


def _mode(path: Path, change: Change) -> int:
    # FAT refuses (EPERM) every mode but the one that its mount options give, which an existing
    # file has.
    return 0o644 if change.before is None else stat.S_IMODE(path.stat().st_mode)


def _make_parents(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)  # the umask may have taken bits away, and others have to read there
        sync_dir(path.parent)


def _remove_made(file: Saved, where: Places) -> None:
    for name in reversed(file.made):
        with suppress(OSError):  # not empty, or gone: somebody else's by now
            where.path(file.place, name).rmdir()


def _forget(folder: Path) -> None:
    done = folder.with_name(f".{folder.name}.reverted")
    shutil.rmtree(done, ignore_errors=True)
    folder.rename(done)
    sync_dir(folder.parent)
    shutil.rmtree(done)
    with suppress(OSError):  # older sets are still in there
        folder.parent.rmdir()


def _digest(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()
