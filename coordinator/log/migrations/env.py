"""The entry point of Alembic: run the migrations on the given connection, in its transaction."""

from alembic import context

from coordinator.log.schema import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
context.run_migrations()
