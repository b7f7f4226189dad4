"""Migrate the schema of the log, safely when several coordinators start at once.

They queue for the row lock of a one-row table, which works on every relative of
PostgreSQL (advisory locks do not). Migrations run in the transaction that holds the
lock: if one fails or its process dies, nothing remains, and the next in the queue
does the work, or finds it done.
"""

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from coordinator.core.errors import LogUnavailable
from coordinator.log.connections import KEEPALIVE

_LOCK_STATEMENTS = (
    text("CREATE TABLE IF NOT EXISTS migration_lock (id SMALLINT PRIMARY KEY)"),
    text("INSERT INTO migration_lock (id) VALUES (1) ON CONFLICT (id) DO NOTHING"),
)
_CONNECT_TIMEOUT_S = "5"
_INSUFFICIENT_PRIVILEGE = "42501"
_TAKE_LOCK = text("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE")


class LogUrlError(Exception):
    """The log's URL is wrong in a way that only a connection attempt shows."""


class LogTooNewError(Exception):
    """A newer version has migrated the log. This version cannot interpret the result."""


def migrate(url: str) -> None:
    """Apply the migrations that the database lacks. Block while another process migrates.

    Raises:
        LogUnavailable: the database cannot be reached.
        LogUrlError: the URL is invalid or lacks privileges.
        LogTooNewError: the database has a migration that this version does not know.
    """
    try:
        _migrate(database_engine(url))
    except OperationalError as error:
        raise LogUnavailable(f"the log cannot be reached: {in_one_line(error.orig or error)}") from error
    except ProgrammingError as error:
        if not is_about_the_url(error):
            raise  # the server rejected a statement: a bug
        raise LogUrlError(f"log.url: {in_one_line(error.orig or error)}") from error


def _migrate(engine: Engine) -> None:
    _make_lock(engine)
    with engine.begin() as connection:
        connection.execute(_TAKE_LOCK)
        config = alembic_config(connection)
        _refuse_newer(connection, ScriptDirectory.from_config(config))
        command.upgrade(config, "head")


def _refuse_newer(connection: Connection, ours: ScriptDirectory) -> None:
    known = {migration.revision for migration in ours.walk_revisions()}
    newer = set(MigrationContext.configure(connection).get_current_heads()) - known
    if newer:
        raise LogTooNewError(
            f"the log is at {', '.join(newer)}, and this version of tccd supports it up to "
            f"{ours.get_current_head()}: run the version that migrated it"
        )


def is_about_the_url(error: ProgrammingError) -> bool:
    """Return whether the URL is wrong, or its user lacks privileges."""
    return getattr(error.orig, "sqlstate", None) in {None, _INSUFFICIENT_PRIVILEGE}


def in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def schema_is_current(url: str) -> bool:
    """Return whether every migration has been applied."""
    with database_engine(url).connect() as connection:
        applied = MigrationContext.configure(connection).get_current_heads()
        return set(applied) == set(ScriptDirectory.from_config(alembic_config(connection)).get_heads())


def _make_lock(engine: Engine) -> None:
    """Create the lock's table: "if not exists" does not protect against a concurrent creation."""
    try:
        _run_lock_statements(engine)
    except (IntegrityError, ProgrammingError):
        _run_lock_statements(engine)


def _run_lock_statements(engine: Engine) -> None:
    for statement in _LOCK_STATEMENTS:
        with engine.begin() as connection:
            connection.execute(statement)


def database_engine(url: str) -> Engine:
    """Return an engine without a pool. It gives up a server that does not respond; the URL may set limits."""
    address = make_url(url).set(drivername="postgresql+psycopg")
    limits = KEEPALIVE | {"connect_timeout": _CONNECT_TIMEOUT_S}
    ours = {name: limit for name, limit in limits.items() if name not in address.query}
    return create_engine(address, poolclass=NullPool, connect_args=ours)


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("coordinator.log") / "migrations"))
    config.attributes["connection"] = connection
    return config
