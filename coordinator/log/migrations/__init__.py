"""The history of the schema, for Alembic. `coordinator.log.migration` runs it."""
