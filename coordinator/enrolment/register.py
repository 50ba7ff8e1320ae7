"""Tickets and enrolments in the coordinator's database, beside a running daemon or without one."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, update

from coordinator.database import migrate
from coordinator.database.schema import devices, enrolments, tokens
from coordinator.database.store import connect
from coordinator.enrolment.judge import LIVE, Claim, Status, Token, judge
from qflare.enrolment import EnrolRequest, Refusal
from qflare.faults import LocalFault
from qflare.host.files import ensure_private_dir, take_lock
from qflare.names import DeviceId, Digest

GRACE_S = 7 * 86_400.0  # after its end, for a device that was granted and hasn't been seen yet


_STAMP = """
SELECT (SELECT count(*) FROM tokens), (SELECT total(revoked_at) FROM tokens),
       (SELECT count(*) FROM enrolments), (SELECT total(decided_at) FROM enrolments)
"""


# The device has shown the coordinator the certificate that it was granted.
_SHOWN = (devices.c.name == enrolments.c.name) & (devices.c.certificate == enrolments.c.certificate)


@dataclass(frozen=True)
class Granted:
    """What a device gets: its certificate, and the sealed grant that holds it."""

    certificate: bytes
    sealed: bytes


@dataclass(frozen=True)
class Entry:
    """One ticket and what became of it, for people."""

    token: Token
    claim: Claim | None
    confirmed: bool  # the device has shown this certificate to the coordinator


@dataclass(frozen=True)
class Accounts:
    """Whom the broker should let in, and who was let in once."""

    devices: tuple[tuple[bytes, DeviceId], ...]  # by ticket
    tokens: tuple[bytes, ...]
    former: frozenset[str]
    awaiting: int  # devices that wait for the operator


def prepare(state_dir: Path) -> Path:
    """The database's path; made or migrated here unless a daemon has done that already.

    Raises LocalFault if a daemon of another version runs.
    """
    path = ensure_private_dir(state_dir) / "coordinator.db"
    if path.exists():
        engine = connect(path, read_only=True)
        try:
            with engine.begin() as connection:
                if migrate.current(connection) == migrate.known()[-1]:
                    return path
        finally:
            engine.dispose()
    busy = f"{state_dir}: a coordinator of another version is running; restart it and try again"
    lock = take_lock(state_dir / "coordinator.lock", busy)
    engine = connect(path)
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()
        os.close(lock)
    return path


class Register:
    """The two tables. Every method is one transaction, durable when it returns."""

    def __init__(self, path: Path) -> None:
        self._engine: Engine = connect(path)
        # A connection of its own that only ever asks whether somebody else wrote something.
        self._watch = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._seen, self._stamp = -1, (0.0,)

    def close(self) -> None:
        self._engine.dispose()
        self._watch.close()

    def version(self) -> tuple[float, ...]:
        """Figures that change with every change of the two tables, by whichever process.

        Rounds write to the same database all the time, so the tables are looked at, but only when
        anything was committed at all (PRAGMA data_version).
        """
        (number,) = self._watch.execute("PRAGMA data_version").fetchone()
        if number != self._seen:
            self._seen, self._stamp = number, self._watch.execute(_STAMP).fetchone()
        return self._stamp

    def empty(self) -> bool:
        """Was no ticket ever made?"""
        with self._engine.begin() as connection:
            return connection.scalar(select(func.count()).select_from(tokens)) == 0

    def add(self, made: Sequence[Token]) -> None:
        """Keep new tickets."""
        rows = [
            {
                "id": token.id,
                "created_at": token.created_at,
                "expires_at": token.expires_at,
                "name": token.name,
                "board": token.board,
                "serial": token.serial,
                "replace": int(token.replace),
            }
            for token in made
        ]
        with self._engine.begin() as connection:
            connection.execute(insert(tokens), rows)

    def find(self, token: bytes) -> tuple[Token | None, Claim | None]:
        """A ticket by its number, and what it was used for."""
        with self._engine.begin() as connection:
            return _find(connection, token)

    def settle(
        self, request: EnrolRequest, now: float, *, auto: bool, issue: Callable[[], Granted]
    ) -> Granted | Refusal:
        """Decide about a request that was proven, and write it down, in one transaction.

        The first proven request has the ticket for good: killed before the commit, nothing
        happened; after it, the same request gets the same grant again, and any other one is
        refused.
        """
        with self._engine.begin() as connection:
            token, claim = _find(connection, request.token)
            refusal = judge(token, claim, request, now)
            if refusal is not None or token is None:
                return refusal or Refusal.UNKNOWN
            if claim is not None and claim.status is Status.GRANTED:
                return Granted(claim.certificate or b"", claim.sealed or b"")
            if claim is None:
                if not _clear_name(connection, token, request, now):
                    return Refusal.NAME_TAKEN
                _claim(connection, request, now)
            if not auto and (claim is None or claim.status is Status.AWAITING):
                return Refusal.AWAITING
            granted = issue()
            connection.execute(
                update(enrolments)
                .where(enrolments.c.token == request.token)
                .values(
                    status=Status.GRANTED,
                    decided_at=now,
                    certificate=granted.certificate,
                    sealed=granted.sealed,
                )
            )
            return granted

    def renew(self, name: DeviceId, issue: Callable[[Claim], bytes]) -> bytes | None:
        """A certificate for a device that was granted one and is still let in; else None.

        `issue` decides whether the one that was issued last still serves.
        """
        with self._engine.begin() as connection:
            row = connection.execute(
                select(enrolments).where(
                    enrolments.c.name == str(name), enrolments.c.status == Status.GRANTED
                )
            ).one_or_none()
            if row is None:
                return None
            certificate = issue(_claimed(row))
            if certificate != row.certificate:
                connection.execute(
                    update(enrolments)
                    .where(enrolments.c.token == row.token)
                    .values(certificate=certificate, former=row.certificate)
                )
            return certificate

    def entries(self) -> list[Entry]:
        """Every ticket, oldest first."""
        with self._engine.begin() as connection:
            return _entries(connection)

    def revoke(self, ids: Iterable[bytes], now: float) -> None:
        """Tickets that shall no longer be used."""
        with self._engine.begin() as connection:
            for token in ids:
                connection.execute(
                    update(tokens)
                    .where(tokens.c.id == token, tokens.c.revoked_at.is_(None))
                    .values(revoked_at=now)
                )

    def decide(self, token: bytes, status: Status, now: float) -> None:
        """The operator's word; raise LocalFault if there is nothing to decide any more."""
        before = {
            Status.APPROVED: (Status.AWAITING, Status.APPROVED),
            Status.DENIED: (Status.AWAITING, Status.APPROVED, Status.DENIED),
            Status.CLOSED: (Status.GRANTED, Status.CLOSED),
        }[status]
        with self._engine.begin() as connection:
            done = connection.execute(
                update(enrolments)
                .where(enrolments.c.token == token, enrolments.c.status.in_(before))
                .values(status=status, decided_at=now)
            )
        if done.rowcount != 1:
            raise LocalFault("that was decided otherwise meanwhile; look at `qflare enrol list`")

    def accounts(self, now: float) -> Accounts:
        """Whom the broker should let in at this time.

        A ticket's account ends with it, so that a second board is told by us that it was used; a
        device that was granted and hasn't been seen has a week more to ask for its grant again.
        """
        query = (
            select(
                tokens.c.id,
                tokens.c.expires_at,
                tokens.c.revoked_at,
                enrolments.c.name,
                enrolments.c.status,
                devices.c.name.label("confirmed"),
            )
            .outerjoin(enrolments, enrolments.c.token == tokens.c.id)
            .outerjoin(devices, _SHOWN)
            .order_by(tokens.c.created_at, tokens.c.id)
        )
        granted: list[tuple[bytes, DeviceId]] = []
        waiting: list[bytes] = []
        former: set[str] = set()
        awaiting = 0
        with self._engine.begin() as connection:
            for row in connection.execute(query):
                if row.status == Status.GRANTED:
                    granted.append((row.id, DeviceId(row.name)))
                elif row.status is not None:
                    former.add(row.name)
                awaiting += row.status == Status.AWAITING
                alive = row.revoked_at is None and now < row.expires_at
                asks = row.status in LIVE and not row.confirmed and now < row.expires_at + GRACE_S
                if alive or asks:
                    waiting.append(row.id)
                else:
                    former.add(row.id.hex())
        former -= {str(name) for _, name in granted}
        return Accounts(tuple(granted), tuple(waiting), frozenset(former), awaiting)


def _find(connection: Connection, token: bytes) -> tuple[Token | None, Claim | None]:
    row = connection.execute(select(tokens).where(tokens.c.id == token)).one_or_none()
    used = connection.execute(select(enrolments).where(enrolments.c.token == token)).one_or_none()
    return (None if row is None else _token(row)), (None if used is None else _claimed(used))


def _clear_name(connection: Connection, token: Token, request: EnrolRequest, now: float) -> bool:
    """Make way for this name; False if another device has it and the ticket doesn't say so.

    A device that comes again with the same key, by another ticket, takes its own place.
    """
    holder = connection.execute(
        select(enrolments).where(enrolments.c.name == request.name, enrolments.c.status.in_(LIVE))
    ).one_or_none()
    if holder is not None:
        same = holder.fingerprint == request.key.fingerprint.raw
        if not (same or token.replace):
            return False
        connection.execute(
            update(enrolments)
            .where(enrolments.c.token == holder.token)
            .values(status=Status.CLOSED, decided_at=now)
        )
        return True
    seen = connection.scalar(
        select(devices.c.certificate).where(devices.c.name == str(request.name))
    )
    return seen is None or token.replace or request.verify_key in seen


def _claim(connection: Connection, request: EnrolRequest, now: float) -> None:
    connection.execute(
        insert(enrolments).values(
            token=request.token,
            request=request.digest.raw,
            body=request.to_bytes(),
            name=str(request.name),
            fingerprint=request.key.fingerprint.raw,
            status=Status.AWAITING,
            asked_at=now,
        )
    )


def _entries(connection: Connection) -> list[Entry]:
    claims = {row.token: _claimed(row) for row in connection.execute(select(enrolments))}
    shown = select(enrolments.c.token).join(devices, _SHOWN)
    confirmed = set(connection.scalars(shown))
    order = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
    return [
        Entry(_token(row), claims.get(row.id), row.id in confirmed)
        for row in connection.execute(order)
    ]


def _token(row: Any) -> Token:
    return Token(
        id=row.id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        name=row.name,
        board=row.board,
        serial=row.serial,
        replace=bool(row.replace),
        revoked_at=row.revoked_at,
    )


def _claimed(row: Any) -> Claim:
    return Claim(
        token=row.token,
        request=Digest(row.request),
        body=EnrolRequest.parse(row.body),
        status=Status(row.status),
        asked_at=row.asked_at,
        decided_at=row.decided_at,
        certificate=row.certificate,
        sealed=row.sealed,
        former=row.former,
    )
