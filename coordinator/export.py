"""One JSON object with everything that the database knows of a run, for reports."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, select

from coordinator.config import CoordinatorConfig
from coordinator.database.schema import device_reports, rounds, telemetry, updates
from coordinator.database.store import connect
from coordinator.validation import figures
from qflare.envelope import peek_signed
from qflare.faults import LocalFault
from qflare.messages import RoundOffer, RoundReceipt


def database_path(config: CoordinatorConfig) -> Path:
    """Where the database is."""
    return config.coordinator.state_dir / "coordinator.db"


def export(config: CoordinatorConfig) -> dict[str, Any]:
    """Read the database without changing it, beside a running daemon or without one.

    Raises LocalFault if there is none yet.
    """
    path = database_path(config)
    if not path.exists():
        raise LocalFault(f"{path} isn't there: the coordinator has never run with this file")
    engine = connect(path, read_only=True)
    try:
        with engine.begin() as connection:
            history = [_round(connection, row) for row in connection.execute(_all_rounds)]
            offered = select(rounds.c.offer, rounds.c.tier).where(rounds.c.offer.is_not(None))
            fleet = [_device(row) for row in connection.execute(_all_reports)]
            last = connection.execute(offered.order_by(rounds.c.number.desc()).limit(1)).first()
    finally:
        engine.dispose()
    evidence = peek_signed(RoundOffer, last.offer).evidence.provider if last else None
    return {
        "run": {
            "fleet": config.coordinator.fleet,
            "suite": config.policy.suite,
            "codec": config.policy.codec,
            "evidence": evidence,
            "evidence_tier": last.tier if last else None,
            "broker": urlsplit(config.broker.url).scheme,
        },
        "rounds": history,
        "devices": fleet,
    }


def _validation(receipt: bytes | None) -> dict[str, Any] | None:
    """How good the models were on the devices' validation parts, by the enclave's word."""
    return figures(peek_signed(RoundReceipt, receipt).tallies) if receipt else None


def _device(row: Any) -> dict[str, Any]:
    """How a device is, by its own newest word."""
    health = json.loads(row.health)
    return {"device": row.device, "at": row.at, **health, "figures": dict(health["figures"])}


_all_reports = select(device_reports).order_by(device_reports.c.device)
_all_rounds = select(rounds).order_by(rounds.c.number)


def _round(connection: Connection, row: Any) -> dict[str, Any]:
    found = connection.execute(
        select(updates)
        .where(updates.c.round == row.number)
        .order_by(updates.c.received_at, updates.c.device)
    ).all()
    reports = connection.execute(
        select(telemetry).where(telemetry.c.round == row.number).order_by(telemetry.c.device)
    ).all()
    return {
        "number": row.number,
        "step": row.step,
        "status": row.status,
        "reason": row.reason,
        "opening_at": row.opening_at,
        "offered_at": row.offered_at,
        "closed_at": row.closed_at,
        "released_at": row.released_at,
        "published_at": row.published_at,
        "invited": row.invited,
        "accepted": sum(u.status != "refused" or u.settled_at is not None for u in found),
        "admitted": sum(u.status == "admitted" for u in found),
        "refused": dict(sorted(Counter(u.reason for u in found if u.status == "refused").items())),
        "update_bytes": [u.size for u in found if u.status != "refused"],
        "open_s": row.open_seconds,
        "admit_s": sum(u.admit_seconds or 0.0 for u in found),
        "release_s": row.release_seconds,
        "model": row.model.hex() if row.model else None,
        "receipt": row.receipt_digest.hex() if row.receipt_digest else None,
        "validation": _validation(row.receipt),
        "telemetry": {
            r.device: {
                "model": r.model.hex(),
                "examples": r.examples,
                "correct": r.correct,
                "loss_sum": r.loss_sum,
                "stages": json.loads(r.stages),
                "counters": json.loads(r.counters),
                "at": r.at,
            }
            for r in reports
        },
    }
