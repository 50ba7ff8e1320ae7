"""The tables, as they are at the newest migration.

STRICT, so that a column holds its type or the write fails. Times are Unix seconds; digests are 32
bytes; messages are stored as they went over the wire.
"""

from sqlalchemy import (
    REAL,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()

devices = Table(
    "devices",
    metadata,
    Column("name", Text, primary_key=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("registered_at", REAL, nullable=False),
    sqlite_strict=True,
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False),  # opening, collecting, releasing, released, abandoned
    Column("policy", LargeBinary, nullable=False),
    Column("candidates", Text, nullable=False),  # names, separated by spaces
    Column("predecessor", Integer, ForeignKey("rounds.number")),  # NULL: the genesis model
    Column("weights", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("opening_at", REAL, nullable=False),
    Column("step", Integer),
    Column("offer", LargeBinary),
    Column("invited", Integer),
    Column("tier", Text),
    Column("offered_at", REAL),
    Column("closes_at", REAL),
    Column("open_seconds", REAL),
    Column("closed_at", REAL),
    Column("receipt", LargeBinary),
    Column("receipt_digest", LargeBinary),
    Column("model", LargeBinary),
    Column("model_size", Integer),
    Column("next_state", LargeBinary),
    Column("ready", LargeBinary),
    Column("release_seconds", REAL),
    Column("released_at", REAL),
    Column("published_at", REAL),
    Column("abandoned_at", REAL),
    Column("reason", Text, nullable=False, server_default=""),
    sqlite_strict=True,
)

updates = Table(
    "updates",
    metadata,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("device", Text, ForeignKey("devices.name"), primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("status", Text, nullable=False),  # accepted, admitted, refused
    Column("reason", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("received_at", REAL, nullable=False),
    Column("settled_at", REAL),
    Column("admit_seconds", REAL),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index("updates_by_device", updates.c.device, updates.c.round)

ledger = Table(
    "ledger",
    metadata,
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, ForeignKey("rounds.number"), nullable=False, unique=True),
    Column("leaf", LargeBinary, nullable=False),
    Column("receipt", LargeBinary, nullable=False, unique=True),
    # A chain: each receipt is followed by one at most.
    Column("previous", LargeBinary, nullable=False, unique=True),
    sqlite_strict=True,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", Integer, nullable=False),
    Column("root", LargeBinary, nullable=False),
    sqlite_strict=True,
)

telemetry = Table(
    "telemetry",
    metadata,
    Column("round", Integer, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("model", LargeBinary, nullable=False),
    Column("examples", Integer, nullable=False),
    Column("correct", Integer, nullable=False),
    Column("loss_sum", REAL, nullable=False),
    Column("stages", Text, nullable=False),  # JSON object, seconds by name
    Column("counters", Text, nullable=False),  # JSON object, counts by name
    Column("at", REAL, nullable=False),
    ForeignKeyConstraint(["device"], ["devices.name"]),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# The newest report of each device, as JSON; what orders them is the device's own count.
device_reports = Table(
    "reports",
    metadata,
    Column("device", Text, primary_key=True),
    Column("session", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("health", Text, nullable=False),
    Column("at", REAL, nullable=False),
    ForeignKeyConstraint(["device"], ["devices.name"]),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# Tickets. What is secret about one is derived from its number and a key file, and isn't here.
tokens = Table(
    "tokens",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("created_at", REAL, nullable=False),
    Column("expires_at", REAL, nullable=False),
    Column("name", Text, nullable=False),  # each of these three may be empty: any
    Column("board", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("replace", Integer, nullable=False),  # 1: may take the place of another device
    Column("revoked_at", REAL),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# The one request that a ticket was used for; its primary key is what makes a ticket single-use.
enrolments = Table(
    "enrolments",
    metadata,
    Column("token", LargeBinary, ForeignKey("tokens.id"), primary_key=True),
    Column("request", LargeBinary, nullable=False),  # digest
    Column("body", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),  # awaiting, approved, denied, granted, closed
    Column("asked_at", REAL, nullable=False),
    Column("decided_at", REAL),
    Column("certificate", LargeBinary),
    Column("sealed", LargeBinary),  # the grant, which only the device can open
    Column("former", LargeBinary),  # the certificate that was renewed last
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index(
    "enrolments_by_name",
    enrolments.c.name,
    unique=True,
    sqlite_where=text("status IN ('awaiting', 'approved', 'granted')"),
)
