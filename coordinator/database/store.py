"""Writes in one transaction a batch, and everything read back at a start."""

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from coordinator.database import migrate
from coordinator.database.schema import (
    checkpoint,
    device_reports,
    devices,
    ledger,
    rounds,
    telemetry,
    updates,
)
from coordinator.events import (
    DeviceRegistered,
    ReportStored,
    RoundAbandoned,
    RoundClosed,
    RoundOffered,
    RoundOpening,
    RoundPublished,
    RoundReleased,
    TelemetryStored,
    UpdateSettled,
    UpdateStored,
    Write,
)
from qflare.faults import LocalFault
from qflare.names import DeviceId, Digest

REMEMBERED = 4  # newest updates of each device that are kept in memory


@dataclass(frozen=True)
class UpdateRow:
    """An update that was received whole."""

    round: int
    device: DeviceId
    digest: Digest
    status: str  # accepted, admitted, refused
    reason: str
    size: int
    settled: bool  # the enclave said so


@dataclass(frozen=True)
class RoundRow:
    """A round as far as it came; None for what it hasn't reached."""

    number: int
    status: str
    opened_at: int  # Unix seconds
    policy: bytes
    candidates: tuple[DeviceId, ...]
    predecessor: int  # 0: genesis
    weights: Digest
    state: Digest
    offer: bytes | None
    closes_at: float | None
    receipt: bytes | None
    model: Digest | None
    model_size: int | None
    next_state: Digest | None
    ready: bytes | None


@dataclass(frozen=True)
class Snapshot:
    """Everything that a machine starts from."""

    certificates: tuple[tuple[DeviceId, bytes], ...] = ()
    leaves: tuple[bytes, ...] = ()
    head: Digest | None = None
    last: RoundRow | None = None  # the newest round
    released: RoundRow | None = None  # the newest one that was released
    models: tuple[tuple[Digest, int], ...] = ()  # of all released rounds, oldest first
    released_count: int = 0
    abandoned_count: int = 0
    updates: tuple[UpdateRow, ...] = ()  # of the newest round, and the latest of each device
    telemetry: tuple[tuple[DeviceId, int, int, float], ...] = ()  # on the newest model


def connect(path: Path, read_only: bool = False) -> Engine:
    """An engine on the database file; read-only, it works beside a running daemon or without."""
    query = {"uri": "true", "mode": "ro"} if read_only else {"uri": "true"}
    # Quoted: in a URI, `#`, `?` and `%` of a folder's name would mean something.
    url = URL.create("sqlite", database=f"file:{quote(str(path))}", query=query)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _pragmas(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # we say BEGIN ourselves, see below
        with closing(raw.cursor()) as cursor:
            cursor.execute("PRAGMA busy_timeout = 10000")
            cursor.execute("PRAGMA foreign_keys = ON")
            if not read_only:
                cursor.execute("PRAGMA journal_mode = WAL")
                cursor.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # The driver's own BEGIN would leave schema changes outside of the transaction.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


class Store:
    """The database of one coordinator. Opening it migrates it; the caller holds the lock."""

    def __init__(self, path: Path) -> None:
        self._engine = connect(path)
        migrate.upgrade(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def commit(self, writes: Iterable[Write]) -> None:
        """All of them or none; durable when this returns.

        Raises LocalFault if the ledger isn't as long as the machine thought.
        """
        with self._engine.begin() as connection:
            for write in writes:
                _apply(connection, write)

    def load(self) -> Snapshot:
        """Read everything that a machine starts from."""
        with self._engine.begin() as connection:
            return _load(connection)

    def admitted(self, round_: int) -> list[tuple[DeviceId, Digest]]:
        """The updates that count in a round, in order of device."""
        query = (
            select(updates.c.device, updates.c.digest)
            .where(updates.c.round == round_, updates.c.status == "admitted")
            .order_by(updates.c.device)
        )
        with self._engine.begin() as connection:
            return [(DeviceId(d), Digest(u)) for d, u in connection.execute(query)]


def _apply(connection: Connection, write: Write) -> None:
    match write:
        case DeviceRegistered():
            values = {"certificate": write.certificate, "registered_at": write.at}
            statement = upsert(devices).values(name=write.device, **values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["name"], set_=values)
            )
        case RoundOpening(request, predecessor, at):
            connection.execute(
                upsert(rounds)
                .values(
                    number=request.round,
                    status="opening",
                    policy=request.policy.to_bytes(),
                    candidates=" ".join(request.candidates),
                    predecessor=predecessor or None,
                    weights=request.weights.raw,
                    state=request.state.raw,
                    opening_at=at,
                )
                .on_conflict_do_nothing()
            )
        case RoundOffered():
            _round(
                connection,
                write.round,
                status="collecting",
                step=write.step,
                offer=write.offer,
                invited=write.invited,
                tier=write.tier,
                open_seconds=write.open_seconds,
                offered_at=write.at,
                closes_at=write.closes_at,
            )
        case UpdateStored():
            connection.execute(
                upsert(updates)
                .values(
                    round=write.round,
                    device=write.device,
                    digest=write.digest.raw,
                    status="refused" if write.refused else "accepted",
                    reason=write.refused,
                    size=write.size,
                    received_at=write.at,
                )
                .on_conflict_do_nothing()
            )
        case UpdateSettled():
            connection.execute(
                update(updates)
                .where(
                    updates.c.round == write.round,
                    updates.c.device == write.device,
                    updates.c.digest == write.digest.raw,
                )
                .values(
                    status="refused" if write.refused else "admitted",
                    reason=write.refused,
                    settled_at=write.at,
                    admit_seconds=write.seconds,
                )
            )
        case RoundClosed():
            _round(connection, write.round, status="releasing", closed_at=write.at)
        case RoundReleased():
            _release(connection, write)
        case RoundPublished():
            _round(connection, write.round, published_at=write.at)
        case RoundAbandoned():
            _round(
                connection,
                write.round,
                status="abandoned",
                reason=write.reason,
                abandoned_at=write.at,
            )
        case TelemetryStored():
            values = {
                "model": write.model.raw,
                "examples": write.examples,
                "correct": write.correct,
                "loss_sum": write.loss_sum,
                "stages": json.dumps(dict(write.stages)),
                "counters": json.dumps(dict(write.counters)),
                "at": write.at,
            }
            statement = upsert(telemetry).values(round=write.round, device=write.device, **values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["round", "device"], set_=values)
            )
        case ReportStored():
            values = {
                "session": write.session,
                "number": write.number,
                "health": json.dumps(asdict(write.health)),
                "at": write.at,
            }
            statement = upsert(device_reports).values(device=write.device, **values)
            kept, new = device_reports.c, statement.excluded
            same = (kept.session == new.session) & (kept.number < new.number)
            newer = (kept.session < new.session) | same
            connection.execute(
                statement.on_conflict_do_update(index_elements=["device"], set_=values, where=newer)
            )


def _round(connection: Connection, number: int, **values: object) -> None:
    connection.execute(update(rounds).where(rounds.c.number == number).values(**values))


def _release(connection: Connection, write: RoundReleased) -> None:
    swapped = connection.execute(
        update(checkpoint)
        .where(checkpoint.c.size == write.ledger_size)
        .values(size=write.ledger_size + 1, root=write.new_root.raw)
    )
    if swapped.rowcount != 1:
        raise LocalFault(
            f"the ledger doesn't have {write.ledger_size} leaves any more: somebody else writes "
            "to this database; stop the other coordinator and start this one again"
        )
    connection.execute(
        insert(ledger).values(
            index=write.ledger_size,
            round=write.round,
            leaf=write.receipt,
            receipt=write.receipt_digest.raw,
            previous=write.previous_receipt.raw,
        )
    )
    _round(
        connection,
        write.round,
        status="released",
        receipt=write.receipt,
        receipt_digest=write.receipt_digest.raw,
        model=write.model.raw,
        model_size=write.model_size,
        next_state=write.state.raw,
        ready=write.ready,
        release_seconds=write.release_seconds,
        released_at=write.at,
    )


def _load(connection: Connection) -> Snapshot:
    leaves = connection.execute(select(ledger.c.leaf, ledger.c.receipt).order_by(ledger.c.index))
    leaf_rows = leaves.all()
    last = _load_round(connection, select(func.max(rounds.c.number)).scalar_subquery())
    newest = select(func.max(ledger.c.round)).scalar_subquery()
    released = _load_round(connection, newest)
    by_status = select(rounds.c.status, func.count()).group_by(rounds.c.status)
    counts: dict[str, int] = {}
    for status, count in connection.execute(by_status):
        counts[status] = count
    models = connection.execute(
        select(rounds.c.model, rounds.c.model_size)
        .where(rounds.c.status == "released")
        .order_by(rounds.c.number)
    )
    reports: tuple[tuple[DeviceId, int, int, float], ...] = ()
    if released and released.model:
        rows = connection.execute(
            select(
                telemetry.c.device,
                telemetry.c.examples,
                telemetry.c.correct,
                telemetry.c.loss_sum,
            ).where(telemetry.c.model == released.model.raw)
        )
        reports = tuple((DeviceId(d), n, k, s) for d, n, k, s in rows)
    return Snapshot(
        certificates=tuple(
            (DeviceId(name), der)
            for name, der in connection.execute(select(devices.c.name, devices.c.certificate))
        ),
        leaves=tuple(leaf for leaf, _ in leaf_rows),
        head=Digest(leaf_rows[-1][1]) if leaf_rows else None,
        last=last,
        released=released,
        models=tuple((Digest(model), size) for model, size in models),
        released_count=counts.get("released", 0),
        abandoned_count=counts.get("abandoned", 0),
        updates=_load_updates(connection, last.number if last else 0),
        telemetry=reports,
    )


def _load_round(connection: Connection, number: Any) -> RoundRow | None:
    row = connection.execute(select(rounds).where(rounds.c.number == number)).one_or_none()
    if row is None:
        return None

    def digest(raw: bytes | None) -> Digest | None:
        return None if raw is None else Digest(raw)

    return RoundRow(
        number=row.number,
        status=row.status,
        opened_at=int(row.opening_at),
        policy=row.policy,
        candidates=tuple(map(DeviceId, row.candidates.split())),
        predecessor=row.predecessor or 0,
        weights=Digest(row.weights),
        state=Digest(row.state),
        offer=row.offer,
        closes_at=row.closes_at,
        receipt=row.receipt,
        model=digest(row.model),
        model_size=row.model_size,
        next_state=digest(row.next_state),
        ready=row.ready,
    )


def _load_updates(connection: Connection, newest_round: int) -> tuple[UpdateRow, ...]:
    rank = func.row_number().over(
        partition_by=updates.c.device, order_by=(updates.c.round.desc(), updates.c.received_at)
    )
    ranked = select(updates, rank.label("rank")).subquery()
    rows = connection.execute(
        select(ranked)
        .where((ranked.c.rank <= REMEMBERED) | (ranked.c.round == newest_round))
        .order_by(ranked.c.round, ranked.c.received_at)
    )
    return tuple(
        UpdateRow(
            r.round,
            DeviceId(r.device),
            Digest(r.digest),
            r.status,
            r.reason,
            r.size,
            r.settled_at is not None,
        )
        for r in rows
    )
