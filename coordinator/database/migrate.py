"""Bring a database to the newest migration, from nothing or from any older one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine

from qflare.faults import LocalFault

_HERE = Path(__file__).parent / "migrations"


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate in one transaction: it is done, or it didn't happen.

    The caller holds the state directory's lock. Raises LocalFault for a database that was written
    by a newer QFLARE.
    """
    with engine.begin() as connection:
        found = current(connection)
        if found is not None and found not in known():
            raise LocalFault(
                f"{engine.url.database} was written by a newer QFLARE (revision {found}); "
                "install that one again"
            )
        try:
            command.upgrade(_config(connection), revision)
        except CommandError as error:
            raise LocalFault(f"{engine.url.database} cannot be migrated: {error}") from None


def current(connection: Connection) -> str | None:
    """The database's revision, None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def known() -> list[str]:
    """All revisions, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
