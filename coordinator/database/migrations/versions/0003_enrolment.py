"""Tickets, and the devices that came by them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("created_at", sa.REAL, nullable=False),
        sa.Column("expires_at", sa.REAL, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("board", sa.Text, nullable=False),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("replace", sa.Integer, nullable=False),
        sa.Column("revoked_at", sa.REAL),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "enrolments",
        sa.Column("token", sa.LargeBinary, sa.ForeignKey("tokens.id"), primary_key=True),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("asked_at", sa.REAL, nullable=False),
        sa.Column("decided_at", sa.REAL),
        sa.Column("certificate", sa.LargeBinary),
        sa.Column("sealed", sa.LargeBinary),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        "enrolments_by_name",
        "enrolments",
        ["name"],
        unique=True,
        sqlite_where=sa.text("status IN ('awaiting', 'approved', 'granted')"),
    )
