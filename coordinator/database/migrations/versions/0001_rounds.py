"""Rounds, devices, updates and the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("registered_at", sa.REAL, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("policy", sa.LargeBinary, nullable=False),
        sa.Column("candidates", sa.Text, nullable=False),
        sa.Column("predecessor", sa.Integer, sa.ForeignKey("rounds.number")),
        sa.Column("weights", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("opening_at", sa.REAL, nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("offer", sa.LargeBinary),
        sa.Column("invited", sa.Integer),
        sa.Column("tier", sa.Text),
        sa.Column("offered_at", sa.REAL),
        sa.Column("closes_at", sa.REAL),
        sa.Column("open_seconds", sa.REAL),
        sa.Column("closed_at", sa.REAL),
        sa.Column("receipt", sa.LargeBinary),
        sa.Column("receipt_digest", sa.LargeBinary),
        sa.Column("model", sa.LargeBinary),
        sa.Column("model_size", sa.Integer),
        sa.Column("next_state", sa.LargeBinary),
        sa.Column("ready", sa.LargeBinary),
        sa.Column("release_seconds", sa.REAL),
        sa.Column("released_at", sa.REAL),
        sa.Column("published_at", sa.REAL),
        sa.Column("abandoned_at", sa.REAL),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sqlite_strict=True,
    )
    op.create_table(
        "updates",
        sa.Column("round", sa.Integer, sa.ForeignKey("rounds.number"), primary_key=True),
        sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("received_at", sa.REAL, nullable=False),
        sa.Column("settled_at", sa.REAL),
        sa.Column("admit_seconds", sa.REAL),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("updates_by_device", "updates", ["device", "round"])
    op.create_table(
        "ledger",
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("round", sa.Integer, sa.ForeignKey("rounds.number"), nullable=False, unique=True),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("previous", sa.LargeBinary, nullable=False, unique=True),
        sqlite_strict=True,
    )
    checkpoint = op.create_table(
        "checkpoint",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    # The root of the empty tree: SHA-256 of nothing (RFC 9162, section 2.1.1).
    empty = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    op.bulk_insert(checkpoint, [{"id": 1, "size": 0, "root": empty}])
