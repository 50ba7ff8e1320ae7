"""The tickets that a technician carries: one is taken for one board, and for no other. I/O.

Taking a ticket renames its file into `used/`, with the board's serial number in its name, before
the board hears of it. The rename is what decides, so a cut leaves the ticket taken for this board
or not taken at all, and the same board gets the same ticket again.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_runtime.provision.dialogue import TICKET_MAX
from edge_runtime.provision.problems import Code, Problem
from qflare.enrolment import Ticket, parse_ticket, peek_terms
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.host.files import read_bounded, sync_dir

USED: Final = "used"
SUFFIX: Final = ".ticket"
OWNER: Final = "owner.key"
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Taken:
    """A ticket for this board."""

    path: Path
    ticket: Ticket
    owner_key: bytes

    @property
    def token(self) -> str:
        """Its public number, as the operator's lists have it."""
        return self.ticket.terms.token.hex()


class Tickets:
    """A ticket's file, or a folder of them. `owner_key`: pinned; else the tickets' own word.

    Without a pinned key, a file named `owner.key` beside the tickets is it, if there is one.
    """

    def __init__(self, source: Path, owner_key: Path | None) -> None:
        self._source = source
        self._folder = source if source.is_dir() else source.parent
        beside = self._folder / OWNER
        pinned = owner_key or (beside if beside.is_file() else None)
        try:
            self._owner = None if pinned is None else read_bounded(pinned, 4096)
        except OSError as error:
            raise LocalFault(f"{pinned}: {error.strerror}; name the owner's public key") from None

    def take(self, board: str, serial: str, now: float) -> Taken:
        """Take a ticket for this board, and no other board gets it; raises as `find` does."""
        found = self.find(board, serial, now)
        if found.path.parent == self._folder / USED:
            return found
        return replace(found, path=self._mark(found.path, serial))

    def find(self, board: str, serial: str, now: float) -> Taken:
        """A ticket for this board: the one that it has already, else a fresh one that fits.

        Raises Problem: NO_TICKET, and why the last one that didn't fit doesn't.
        """
        for path in self._of(serial):
            try:
                return self.read(path, now)
            except Problem as problem:
                if problem.code is not Code.EXPIRED_TICKET:
                    raise
        last: Problem | None = None
        for path in self._fresh():
            try:
                taken = self.read(path, now)
            except Problem as problem:
                last = problem
                continue
            if wrong := misfit(taken.ticket, board, serial):
                last = Problem(Code.WRONG_BOARD, wrong)
                continue
            return taken
        raise last or Problem(Code.NO_TICKET, str(self._source))

    def left(self) -> int:
        """How many haven't been taken."""
        return len(self._fresh())

    def spoil(self, taken: Path) -> None:
        """The coordinator refused this ticket: never offer it again."""
        spoilt = taken.with_name(f"spoilt--{taken.name}")
        taken.rename(spoilt)
        sync_dir(spoilt.parent)

    def _fresh(self) -> list[Path]:
        if self._source.is_dir():
            return sorted(p for p in self._source.glob(f"*{SUFFIX}") if p.is_file())
        return [self._source] if self._source.is_file() else []

    def _of(self, serial: str) -> list[Path]:
        """What this board has; of a single ticket's source, only that ticket."""
        name = "" if self._source.is_dir() else self._source.name
        mine = sorted((self._folder / USED).glob(f"{_plain(serial)}--*"))
        return [path for path in mine if not name or path.name == f"{_plain(serial)}--{name}"]

    def _mark(self, path: Path, serial: str) -> Path:
        used = self._folder / USED
        used.mkdir(mode=0o700, exist_ok=True)
        marked = used / f"{_plain(serial)}--{path.name}"
        try:
            path.rename(marked)
        except FileNotFoundError:
            raise Problem(Code.NO_TICKET, f"{path} (just taken by somebody else)") from None
        except OSError as error:
            raise LocalFault(f"{path}: {error.strerror}; tickets are marked there") from None
        sync_dir(used)
        sync_dir(self._folder)
        return marked

    def read(self, path: Path, now: float) -> Taken:
        """What this file holds; Problem: EXPIRED_TICKET, LAPTOP_CLOCK, BAD_TICKET."""
        try:
            raw = read_bounded(path, TICKET_MAX)
            terms = peek_terms(raw)
            owner = self._owner if self._owner is not None else terms.owner_key
            return Taken(path, parse_ticket(raw, owner, now), owner)
        except PeerFault as fault:
            if fault.reason is Reason.EXPIRED_TICKET:
                if now < terms.issued_at:
                    words = f"it says {_day(now)}, and {path.name} was made on "
                    raise Problem(Code.LAPTOP_CLOCK, words + _day(terms.issued_at)) from None
                words = (
                    f"{path.name} ended on {_day(terms.expires_at)}, and this laptop's clock says "
                )
                raise Problem(Code.EXPIRED_TICKET, words + _day(now)) from None
            raise Problem(Code.BAD_TICKET, f"{path} ({fault})") from None
        except (LocalFault, OSError) as error:
            raise Problem(Code.BAD_TICKET, f"{path} ({error})") from None


def misfit(ticket: Ticket, board: str, serial: str) -> str:
    """Why the ticket isn't for this board; empty if it is."""
    if ticket.board and ticket.board != board:
        return f"the ticket is for a {ticket.board}, this is {board or 'an unknown board'}"
    if ticket.serial and ticket.serial != serial:
        return f"the ticket is for the board {ticket.serial}, this one is {serial}"
    return ""


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%F %H:%M} UTC"


def _plain(serial: str) -> str:
    return _UNFIT.sub("-", serial) or "board"
