"""The newest word of each device on how it is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "reports",
        sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
        sa.Column("session", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("health", sa.Text, nullable=False),
        sa.Column("at", sa.REAL, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
