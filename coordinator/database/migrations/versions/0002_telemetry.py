"""What devices report about a round and its model."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "telemetry",
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
        sa.Column("model", sa.LargeBinary, nullable=False),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("correct", sa.Integer, nullable=False),
        sa.Column("loss_sum", sa.REAL, nullable=False),
        sa.Column("stages", sa.Text, nullable=False),
        sa.Column("counters", sa.Text, nullable=False),
        sa.Column("at", sa.REAL, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
