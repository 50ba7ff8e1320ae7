"""Job records and labels on the technician's laptop. I/O.

A record is a JSON file for each board, without any secret, replaced atomically after every step: it
is what a job that was interrupted goes on from, and what is reported when the laptop is back.
"""

import csv
import getpass
import io
import os
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir, read_bounded, write_atomic
from qflare.host.typed import Typed, Unfit, decode, encode, tree_of

_RECORD_MAX: Final = 256 * 1024
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]+")

Result = Literal["running", "done", "waiting", "failed"]


def _texts() -> Any:
    return msgspec.field(default_factory=dict)


class Record(Typed):
    """One board's job. `steps` and `test` hold what came of each, in words.

    `result`: "waiting" is a board that is ready and enrols by itself, or that the operator has yet
    to approve. `key_words` are those of the session's key; `compared` says whether somebody did.
    `token` is the ticket's public number, by which a board that enrolled by itself is found in the
    operator's list; `confirmed` is set when that list says so of the same fingerprint.
    """

    version: int = 1
    who: str = ""
    started: str = ""
    updated: str = ""
    port: str = ""
    board: str = ""
    model: str = ""
    serial: str = ""
    software: str = ""
    name: str = ""
    fingerprint: str = ""
    words: str = ""
    key_words: str = ""
    compared: bool = False
    ticket: str = ""
    token: str = ""
    steps: dict[str, str] = _texts()
    test: dict[str, str] = _texts()
    result: Result = "running"
    problem: str = ""
    code: str = ""
    confirmed: bool = False


class Card(Typed):
    """A card that was written: for which board, and with which ticket."""

    serial: str
    board: str
    ticket: str
    token: str


class Jobs:
    """The folder of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = ensure_private_dir(folder)

    def begin(self, serial: str) -> tuple[Path, Record]:
        """The record of this board's unfinished job, or a new one (not yet on the disk)."""
        return self._begin(serial, self._unfinished())

    def _unfinished(self) -> dict[str, tuple[Path, Record]]:
        """By serial number; the newest of each."""
        return {r.serial: (path, r) for path, r in self.every() if r.result != "done"}

    def _begin(
        self, serial: str, unfinished: dict[str, tuple[Path, Record]]
    ) -> tuple[Path, Record]:
        if serial in unfinished:
            path, record = unfinished[serial]
            return path, msgspec.structs.replace(record, result="running", problem="", code="")
        now = _now()
        stamp = now.replace(":", "").replace("-", "")[:15]
        path = self.folder / f"{_UNFIT.sub('-', serial) or 'board'}-{stamp}.json"
        return path, Record(who=_who(), started=now, serial=serial)

    def save(self, path: Path, record: Record) -> Record:
        """Write it; what was written."""
        record = msgspec.structs.replace(record, updated=_now())
        write_atomic(path, encode(record), 0o600)
        return record

    def prepared(self, cards: Iterable[Card]) -> None:
        """Note each card as soon as it is written: its board will enrol by itself."""
        unfinished = self._unfinished()
        for card in cards:
            path, record = self._begin(card.serial, unfinished)
            changes = msgspec.structs.asdict(card)
            self.save(path, msgspec.structs.replace(record, result="waiting", **changes))

    def interrupted(self, port: str) -> Record | None:
        """The newest job on this port that was left when its board had a ticket already."""
        for _, record in reversed(self.every()):
            if record.port == port and record.result in ("running", "failed") and record.token:
                return record
        return None

    def every(self) -> list[tuple[Path, Record]]:
        """All records, the oldest first; LocalFault names one that can't be read."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append((path, decode(Record, read_bounded(path, _RECORD_MAX))))
            except (Unfit, OSError) as error:
                raise LocalFault(f"{path}: not a job's record ({error}); move it away") from None
        return sorted(found, key=lambda pair: pair[1].started)


def default_folder() -> Path:
    """Where records are kept unless told otherwise (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(base) / "qflare/provision"


def as_csv(records: Iterable[Record]) -> str:
    """One line a board."""
    names = (
        "started", "who", "board", "serial", "name", "words", "result", "confirmed", "problem",
    )  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        tree = tree_of(record)
        # A cell that begins like a formula stays text in a spreadsheet.
        cells = [str(tree[name]) for name in names]
        writer.writerow([f"'{c}" if c[:1] in ("=", "+", "-", "@") else c for c in cells])
    return out.getvalue()


def confirm(jobs: Jobs, listed: object) -> int:
    """Mark the jobs whose device the operator's list has as confirmed; how many were new.

    `listed` is what `qflare enrol list --json` printed. LocalFault for other things. A board that
    enrolled after we left is found by its ticket, and named in the record then.
    """
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise LocalFault("not the output of `qflare enrol list --json`; a list is wanted")
    rows = [{str(k): str(v) for k, v in row.items()} for row in listed]
    known = {
        row[key]: row
        for row in rows
        for key in ("token", "fingerprint")
        if row.get("state") == "confirmed" and row.get(key)
    }
    count = 0
    for path, record in jobs.every():
        row = known.get(record.fingerprint or record.token)
        if record.confirmed or row is None:
            continue
        told = {name: row.get(name, "") for name in ("name", "fingerprint", "words")}
        told["serial"] = row.get("serial") or record.serial  # of a card's board it wasn't known
        jobs.save(path, msgspec.structs.replace(record, confirmed=True, result="done", **told))
        count += 1
    return count


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _who() -> str:
    name = "?"
    with suppress(OSError, KeyError):
        name = getpass.getuser()
    return f"{name}@{socket.gethostname()}"
