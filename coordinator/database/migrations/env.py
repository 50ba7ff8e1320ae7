"""Run by Alembic, on the connection that coordinator.database.migrate hands over."""

from alembic import context

from coordinator.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
