"""The barrier: decision table, plans, and their execution in the participant's own database."""

from tcc._internal.extras import missing_extra

try:
    import sqlalchemy  # noqa: F401 - the modules here need it
except ModuleNotFoundError as error:
    raise missing_extra("a participant", "sql", error) from error
