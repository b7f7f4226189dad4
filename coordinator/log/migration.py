"""Migrate the schema of the log, safely when several coordinators start at once.

They queue for the row lock of a one-row table, which works on every relative of
PostgreSQL (advisory locks do not). Migrations run in the transaction that holds the
lock: if one fails or its process dies, nothing remains, and the next in the queue
does the work, or finds it done.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from threading import Event, Timer
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from coordinator.core.errors import LogUnavailable
from coordinator.log.failures import FailureKind, kind_of
from coordinator.log.former_tables import STAND_IN
from coordinator.log.requirements import LogUrlError, check_requirements
from coordinator.log.schema import SCHEMA
from coordinator.log.servers import connect, shut_down
from coordinator.log.statements import SESSION

# A COMMIT waits for a synchronous standby, for as long as there is none.
COMMIT_TIMEOUT_S = 30
_HAS_SCHEMA = text("SELECT to_regnamespace(:name) IS NOT NULL")
_LOCK_STATEMENTS = (
    text("CREATE TABLE IF NOT EXISTS migration_lock (id SMALLINT PRIMARY KEY)"),
    text("INSERT INTO migration_lock (id) VALUES (1) ON CONFLICT (id) DO NOTHING"),
)
_MAKE_SCHEMA = text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
_TAKE_LOCK = text("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE")
# The first versions kept the log in the schema public. What is there is ours only if all of this is.
_IN_PUBLIC = text("""
    SELECT to_regclass('public.migration_lock') IS NOT NULL
        AND to_regclass('public.alembic_version') IS NOT NULL
        AND to_regclass('public.coordinators') IS NOT NULL
        AND to_regclass('public.transactions') IS NOT NULL
    """)
_OLDEST = text(f"SELECT oldest FROM {SCHEMA}.alembic_version")  # noqa: S608 - constants
_VERSION_IN_PUBLIC = text("SELECT version_num FROM public.alembic_version")
_MOVE_FROM_PUBLIC = (
    text(f"CREATE TABLE {SCHEMA}.alembic_version (LIKE public.alembic_version INCLUDING ALL)"),
    text(f"INSERT INTO {SCHEMA}.alembic_version SELECT version_num FROM public.alembic_version"),  # noqa: S608 - constants
    text(f"ALTER TABLE public.transactions SET SCHEMA {SCHEMA}"),
    text(f"ALTER TABLE public.coordinators SET SCHEMA {SCHEMA}"),
    text(f"ALTER TABLE IF EXISTS public.participants SET SCHEMA {SCHEMA}"),
    text(f"ALTER TABLE IF EXISTS public.audit SET SCHEMA {SCHEMA}"),
    text(f"ALTER TABLE IF EXISTS public.audit_head SET SCHEMA {SCHEMA}"),
    text(f"ALTER TABLE IF EXISTS public.audit_heads SET SCHEMA {SCHEMA}"),
    text(f"ALTER TABLE IF EXISTS public.coordinator_secrets SET SCHEMA {SCHEMA}"),
    text(f"ALTER TABLE IF EXISTS public.erasures SET SCHEMA {SCHEMA}"),
)
# What a coordinator needs to run.
_PRIVILEGES = (
    ("USAGE", f"SCHEMA {SCHEMA}"),
    ("SELECT, INSERT, UPDATE, DELETE", f"{SCHEMA}.transactions, {SCHEMA}.coordinators"),
    ("SELECT, INSERT, UPDATE", f"{SCHEMA}.participants"),
    ("SELECT, INSERT, UPDATE", f"{SCHEMA}.erasures"),
    ("SELECT, INSERT", f"{SCHEMA}.audit, {SCHEMA}.audit_heads"),
    ("SELECT", f"{SCHEMA}.alembic_version, {SCHEMA}.coordinator_secrets"),
)
# The owner of a table can give itself every privilege. A superuser is a member of every role.
_MAY_REWRITE = text(
    "SELECT pg_has_role(:role, relowner, 'MEMBER') FROM pg_class WHERE oid = to_regclass(:table)"
)
_REVISION = re.compile(r"\d{4}")
_ALREADY_EXISTS = ("42P07", "42710")


class LogTooNewError(Exception):
    """A newer version has migrated the log. This version cannot interpret the result."""


def migrate(url: str, owner_url: str | None = None) -> None:
    """Apply the migrations that the database lacks. Block while another process migrates.

    If it lacks none, nothing is written, so that a role without the right to create is enough. It may have
    those of a newer version, while coordinators of both run side by side.
    With `owner_url`, that role migrates, and the one of `url` gets the privileges to run, no more.

    Raises:
        LogUnavailable: the database cannot be reached, or not be written now.
        LogUrlError: the URL is invalid, lacks privileges, or leads to a database that cannot hold the log.
        LogTooNewError: a newer version has migrated the log, and this version cannot run on the result.
    """
    with explained("the log cannot be reached: "):
        check_requirements(url)
        engine = database_engine(owner_url or url)
        if not _is_ready(engine):
            _migrate(engine)
        if owner_url is not None:
            _grant(engine, database_engine(url))


@contextmanager
def explained(unavailable: str = "") -> Iterator[None]:
    """Turn errors of the database within the block into sentences for its administrator.

    `unavailable`: what comes before the text of an error that may be over later.

    Raises:
        LogUnavailable: it may be over later.
        LogUrlError: an administrator must change something.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        message, sqlstate = in_one_line(cause), getattr(cause, "sqlstate", None)
        if isinstance(cause, Exception) and _may_be_over_later(cause):
            raise LogUnavailable(f"{unavailable}{message}") from error
        if sqlstate in _ALREADY_EXISTS:
            raise LogUrlError(
                f"log.url: the schema {SCHEMA} of the database holds something that is not the log's: "
                f"{message}; rename it, or give the log a database of its own"
            ) from error
        raise LogUrlError(f"log.url: {message}") from error


def _may_be_over_later(error: Exception) -> bool:
    """Return whether it concerns the server's state rather than the URL or what the database holds."""
    sqlstate: str = getattr(error, "sqlstate", None) or ""
    is_about_the_database = sqlstate.startswith(("42", "3F", "0A"))
    return not is_about_the_database and kind_of(error) is not FailureKind.REJECTED


def _migrate(engine: Engine) -> None:
    _make_lock(engine)
    with _transaction(engine) as connection:
        connection.execute(_TAKE_LOCK)
        config = alembic_config(connection)
        ours = ScriptDirectory.from_config(config)
        has_moved = _move_from_public(connection, ours)
        if is_of_newer_version(connection):
            return
        _refuse_others(connection, ours)
        command.upgrade(config, "head")
        for statement in STAND_IN if has_moved else ():
            connection.execute(statement)


def _grant(owner: Engine, running: Engine) -> None:
    """Grant what a coordinator needs to run. It can neither change nor delete what is audited."""
    with running.connect() as connection:
        role: str = connection.execute(text("SELECT current_user")).scalar_one()
    with _transaction(owner) as connection:
        quoted = connection.dialect.identifier_preparer.quote(role)
        connection.execute(_TAKE_LOCK)
        for privileges, objects in _PRIVILEGES:
            connection.execute(text(f"REVOKE ALL ON {objects} FROM {quoted}"))
            connection.execute(text(f"GRANT {privileges} ON {objects} TO {quoted}"))
        if connection.execute(_MAY_REWRITE, {"role": role, "table": f"{SCHEMA}.audit"}).scalar_one():
            raise LogUrlError(
                f"log.url: the role {role!r} may still change audit records, because it owns their table or "
                "is a superuser; use another role than that of log.owner_url"
            )


def _move_from_public(connection: Connection, ours: ScriptDirectory) -> bool:
    """Move the log of a first version, if there is one, and return whether there was."""
    if applied_revisions(connection) or not connection.execute(_IN_PUBLIC).scalar_one():
        return False
    if not set(connection.execute(_VERSION_IN_PUBLIC).scalars()) <= _known_revisions(ours):
        return False
    for statement in _MOVE_FROM_PUBLIC:
        connection.execute(statement)
    return True


def _refuse_others(connection: Connection, ours: ScriptDirectory) -> None:
    unknown = applied_revisions(connection) - _known_revisions(ours)
    if any(not _REVISION.fullmatch(revision) for revision in unknown):
        raise LogUrlError(
            f"log.url: the schema {SCHEMA} of the database holds the table alembic_version of another "
            f"program (revision {', '.join(sorted(unknown))}): give the log a database of its own"
        )
    if unknown:
        raise LogTooNewError(
            f"the log is at {', '.join(sorted(unknown))}, and this version of tccd supports it up to "
            f"{ours.get_current_head()}: run the version that migrated it"
        )


def _known_revisions(ours: ScriptDirectory) -> set[str]:
    return {migration.revision for migration in ours.walk_revisions()}


def applied_revisions(connection: Connection) -> frozenset[str]:
    """Return the migrations that the database has."""
    options = {"version_table_schema": SCHEMA}
    return frozenset(MigrationContext.configure(connection, opts=options).get_current_heads())


def in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def is_of_newer_version(connection: Connection) -> bool:
    """Return whether a newer version has migrated the log, so that this version can still run on it."""
    known = _known_revisions(ScriptDirectory.from_config(alembic_config(connection)))
    unknown = applied_revisions(connection) - known
    if not unknown or not all(map(_REVISION.fullmatch, unknown)):
        return False
    return set(connection.execute(_OLDEST).scalars()) <= known


def schema_is_current(url: str) -> bool:
    """Return whether no migration is missing."""
    return _is_ready(database_engine(url))


def _is_ready(engine: Engine) -> bool:
    with engine.connect() as connection:
        wanted = ScriptDirectory.from_config(alembic_config(connection)).get_heads()
        return applied_revisions(connection) == set(wanted) or is_of_newer_version(connection)


def _make_lock(engine: Engine) -> None:
    """Create the lock's table: "if not exists" does not protect against a concurrent creation."""
    try:
        _run_lock_statements(engine)
    except (IntegrityError, ProgrammingError):
        _run_lock_statements(engine)


def _run_lock_statements(engine: Engine) -> None:
    with _transaction(engine) as connection:
        # An administrator may have made it for a role that may not.
        if not connection.execute(_HAS_SCHEMA, {"name": SCHEMA}).scalar_one():
            connection.execute(_MAKE_SCHEMA)
    for statement in _LOCK_STATEMENTS:
        with _transaction(engine) as connection:
            connection.execute(statement)


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """Run the block in a transaction, and bound the time of its COMMIT, which no setting of a server bounds.

    Raises:
        LogUnavailable: there was no answer to COMMIT, so it is unknown whether it took effect.
    """
    with engine.connect() as connection:
        yield connection
        has_ended = Event()
        timer = Timer(COMMIT_TIMEOUT_S, _give_up, (connection.connection.driver_connection, has_ended))
        timer.start()
        try:
            connection.commit()
        except DBAPIError as error:
            if not has_ended.is_set():
                raise
            raise LogUnavailable(
                f"PostgreSQL did not answer the migration's COMMIT for {COMMIT_TIMEOUT_S} s: if "
                "synchronous_standby_names is set there, is that standby connected?"
            ) from error
        finally:
            timer.cancel()


def _give_up(connection: Any, has_ended: Event) -> None:
    has_ended.set()
    shut_down(connection)


def database_engine(url: str) -> Engine:
    """Return an engine without a pool, to the primary of the log, with the settings of `SESSION`.

    It gives up a server that does not respond; the URL may set those limits. A statement has no time limit.
    """

    def creator() -> psycopg.Connection:
        connection = connect(url)
        psycopg.RawCursor(connection).execute(SESSION.sql, ["0"])
        connection.autocommit = False
        return connection

    return create_engine("postgresql+psycopg://", poolclass=NullPool, creator=creator)


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("coordinator.log") / "migrations"))
    config.attributes["connection"] = connection
    return config
