"""The certificate before the last one: it may still be valid when a device is put out."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("enrolments", sa.Column("former", sa.LargeBinary))
