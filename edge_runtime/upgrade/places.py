"""What is where on a device, and which of its versions counts. I/O.

    /opt/qflare/versions/<v>/            a venv; it counts once `.complete` is in it
    /opt/qflare/current -> versions/<v>  what the daemon is started from
    /opt/qflare/proven  -> versions/<v>  what updates are applied by: never a version on trial
    /opt/qflare/update/                  root's: job.json while one is under way, ledger.json

A venv can't be moved, as its scripts name their interpreter by its path: so it is built where it
stays, and the marker is what a rename would be elsewhere. None of this is below the state
directory, which belongs to the daemon's user: root doesn't write where others could put a link.
"""

import os
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.files import read_bounded, sync_dir, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode

OPT: Final = Path("/opt/qflare")
STATE: Final = Path("/var/lib/qflare")
BAD_MAX: Final = 20
_FILE_MAX: Final = 64 * 1024
_MARKER: Final = ".complete"

_Version = Annotated[str, Meta(pattern=r"^[0-9][0-9a-z.+]{0,63}$")]
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
_Sequence = Annotated[int, Meta(ge=0, lt=2**31)]


class Complete(Typed):
    """The marker in a version's directory."""

    version: _Version
    sequence: _Sequence


class Bad(Typed):
    """A release that failed its trial; it isn't tried again."""

    digest: _Digest
    version: _Version
    why: Annotated[str, Meta(max_length=1000)]


class Ledger(Typed):
    """What stays known: the highest sequence that was accepted, what failed, what came last."""

    format: Literal[1] = 1
    sequence: _Sequence = 0
    previous: _Version | None = None
    bad: Annotated[tuple[Bad, ...], Meta(max_length=BAD_MAX)] = ()
    last: Annotated[str, Meta(max_length=1000)] = ""


class Job(Typed):
    """The update under way. `entered` counts the starts of its phase: a board may die of it."""

    format: Literal[1]
    phase: Literal["installing", "trying", "falling_back"]
    digest: _Digest
    version: _Version
    sequence: _Sequence
    previous: _Version
    entered: Annotated[int, Meta(ge=1, le=1000)] = 1
    why: Annotated[str, Meta(max_length=1000)] = ""


T = TypeVar("T", bound=Typed)


class Places:
    """The directory of versions. Methods raise LocalFault for what a person has to mend."""

    def __init__(self, opt: Path = OPT) -> None:
        self.opt = opt
        self.versions = opt / "versions"
        self.update = opt / "update"
        self.wheels = self.update / "wheels"

    def prepare(self) -> None:
        """Make the directories."""
        for path in (self.versions, self.update):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)

    # --- versions

    def of(self, version: str) -> Path:
        return self.versions / version

    def complete(self, version: str) -> Complete | None:
        """The marker, if the version is whole."""
        return self._read(self.of(version) / _MARKER, Complete)

    def finish(self, marker: Complete) -> None:
        """Declare a version whole; all that is in it reaches the disk before the marker does."""
        os.sync()
        write_atomic(self.of(marker.version) / _MARKER, encode(marker), 0o644)
        sync_dir(self.versions)

    def remove(self, version: str) -> None:
        """Remove a version; its marker first, so that half a version never counts."""
        with suppress(FileNotFoundError):
            (self.of(version) / _MARKER).unlink()
            sync_dir(self.of(version))
        shutil.rmtree(self.of(version), ignore_errors=True)

    def prune(self, keep: Iterable[str]) -> list[str]:
        """Remove every other version; return which."""
        kept = {*keep, *filter(None, (self.linked("current"), self.linked("proven")))}
        gone = [path.name for path in self.versions.iterdir() if path.name not in kept]
        for name in gone:
            self.remove(name)
        return sorted(gone)

    # --- links

    def linked(self, name: Literal["current", "proven"]) -> str | None:
        """The version that a link names; None if there is no such link."""
        path = self.opt / name
        try:
            target = path.readlink()
        except FileNotFoundError:
            return None
        except OSError:
            raise LocalFault(
                f"{path} is no symbolic link; make it one to versions/<version>, see "
                "docs/upgrades.md"
            ) from None
        whole = (path.parent / target).absolute()
        return whole.name if whole.parent == self.versions.absolute() else None

    def point(self, name: Literal["current", "proven"], version: str) -> None:
        """Let a link name a version: after a crash at any point it is the old one or the new."""
        if self.linked(name) == version:
            return
        draft = self.opt / f".{name}.{secrets.token_hex(6)}"
        draft.symlink_to(Path("versions") / version)
        draft.replace(self.opt / name)
        sync_dir(self.opt)

    def tidy(self) -> None:
        """Remove links that a crash left before they got their name, and copies of wheels."""
        for draft in self.opt.glob(".*.*"):
            if draft.is_symlink():
                draft.unlink()
        shutil.rmtree(self.wheels, ignore_errors=True)

    # --- what is remembered

    def ledger(self) -> Ledger:
        return self._read(self.update / "ledger.json", Ledger) or Ledger()

    def lowest(self) -> int:
        """The highest sequence that was ever accepted here, or that came with the image."""
        current = self.linked("current")
        marker = self.complete(current) if current else None
        return max(self.ledger().sequence, marker.sequence if marker else 0)

    def write_ledger(self, ledger: Ledger) -> None:
        write_atomic(self.update / "ledger.json", encode(ledger), 0o644)

    def job(self) -> Job | None:
        return self._read(self.update / "job.json", Job)

    def write_job(self, job: Job) -> None:
        write_atomic(self.update / "job.json", encode(job), 0o644)

    def end_job(self) -> None:
        with suppress(FileNotFoundError):
            (self.update / "job.json").unlink()
            sync_dir(self.update)

    @staticmethod
    def _read(path: Path, form: type[T]) -> T | None:
        try:
            return decode(form, read_bounded(path, _FILE_MAX))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Unfit as error:
            raise LocalFault(f"{path}: {error}; remove it if you know what it says") from None
        except OSError as error:
            raise LocalFault(f"{path}: {error.strerror}; try it as root (sudo)") from None
