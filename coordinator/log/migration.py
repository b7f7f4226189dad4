"""Migrate the schema of the log, safely when several coordinators start at once.

They queue for the row lock of a one-row table, which works on every relative of
PostgreSQL (advisory locks do not). Migrations run in the transaction that holds the
lock: if one fails or its process dies, nothing remains, and the next in the queue
does the work, or finds it done.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from threading import Event, Timer
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec import Struct
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from coordinator.core.errors import LogUnavailable
from coordinator.log.failures import FailureKind, kind_of
from coordinator.log.former_tables import STAND_IN
from coordinator.log.requirements import LogUrlError, check_requirements
from coordinator.log.schema import HOME, SCHEMA, cell_schema
from coordinator.log.servers import connect, shut_down
from coordinator.log.statements import SESSION

# A COMMIT waits for a synchronous standby, for as long as there is none.
COMMIT_TIMEOUT_S = 30
_HAS_SCHEMA = text("SELECT to_regnamespace(:name) IS NOT NULL")
_LOCK_STATEMENTS = (
    text("CREATE TABLE IF NOT EXISTS migration_lock (id SMALLINT PRIMARY KEY)"),
    text("INSERT INTO migration_lock (id) VALUES (1) ON CONFLICT (id) DO NOTHING"),
)
_MAKE_SCHEMA = "CREATE SCHEMA IF NOT EXISTS {}"
_TAKE_LOCK = text("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE")
# The first versions kept the log in the schema public. What is there is ours only if all of this is.
_IN_PUBLIC = text("""
    SELECT to_regclass('public.migration_lock') IS NOT NULL
        AND to_regclass('public.alembic_version') IS NOT NULL
        AND to_regclass('public.coordinators') IS NOT NULL
        AND to_regclass('public.transactions') IS NOT NULL
    """)
_OLDEST = text("SELECT oldest FROM alembic_version")
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
    ("SELECT, INSERT, UPDATE, DELETE", ("transactions", "coordinators")),
    ("SELECT, INSERT, UPDATE", ("participants", "erasures")),
    ("SELECT, INSERT", ("audit", "audit_heads")),
    ("SELECT", ("alembic_version", "coordinator_secrets", "cells")),
)
_OWN_PLACE = text("SELECT number, count, log_id FROM cells WHERE number = :number")
_SET_PLACE = text("UPDATE cells SET number = :number, count = :count, log_id = coalesce(:log_id, log_id)")
_MADE = text("SELECT number FROM cells")
_NOTE_MADE = text(
    "INSERT INTO cells (number, count, log_id) VALUES (:number, :count, :log_id) ON CONFLICT DO NOTHING"
)
# The owner of a table can give itself every privilege. A superuser is a member of every role.
_MAY_REWRITE = text(
    "SELECT pg_has_role(:role, relowner, 'MEMBER') FROM pg_class WHERE oid = to_regclass(:table)"
)
_REVISION = re.compile(r"\d{4}")
_ALREADY_EXISTS = ("42P07", "42710")


class LogTooNewError(Exception):
    """A newer version has migrated the log. This version cannot interpret the result."""


class CellsUnavailable(LogUnavailable):
    """Some cells cannot be reached. The home cell is not among them, and the others are migrated."""

    def __init__(self, errors: Mapping[int, LogUnavailable]) -> None:
        super().__init__("; ".join(error.explained for error in errors.values()))
        self.cells = frozenset(errors)


class CellPlace(Struct, frozen=True, kw_only=True):
    """Where a cell of the log is."""

    number: int
    # How many the log has.
    count: int
    url: str
    # Of the role that owns and migrates it, if that is another one.
    owner_url: str | None = None
    # While it is being moved there.
    schema_suffix: str = ""

    @property
    def schema(self) -> str:
        return cell_schema(self.number) + self.schema_suffix

    @property
    def migrating_url(self) -> str:
        """The URL with the role that owns and migrates it."""
        return self.owner_url or self.url


def migrate(url: str, owner_url: str | None = None) -> None:
    """Apply the migrations that the database of a log of one cell lacks. See `migrate_cells`."""
    migrate_cells([CellPlace(number=HOME, count=1, url=url, owner_url=owner_url)])


def migrate_cells(places: Sequence[CellPlace]) -> None:
    """Apply the migrations that cells lack, the home cell first. Block while another process migrates.

    If one lacks none, nothing is written, so that a role without the right to create is enough. It may have
    those of a newer version, while coordinators of both run side by side.
    With `owner_url`, that role migrates, and the one of `url` gets the privileges to run, no more.
    A cell that was made once is never made again: it was moved, and this would be a second one.

    Raises:
        CellsUnavailable: other cells than the home cell cannot be reached; the rest is done.
        LogUnavailable: the home cell cannot be reached, or not be written now.
        LogUrlError: a URL is invalid, lacks privileges, leads to a database that cannot hold the log, or
            to other cells than it should.
        LogTooNewError: a newer version has migrated a cell, and this version cannot run on the result.
    """
    home, *others = places
    unavailable: dict[int, LogUnavailable] = {}
    with explained("the log cannot be reached: "):
        is_made = not others or _exists(home)
    if not is_made:
        _check_new(home, others)
    with explained("the log cannot be reached: "):
        log_id = _migrate_cell(home, None)
        made = _made(home)
    for place in others:
        try:
            with explained(f"cell {place.number} of the log cannot be reached: "):
                if place.number in made and not _exists(place):
                    raise _misplaced(place, "it is missing there")
                _migrate_cell(place, log_id)
                if place.number not in made:
                    _note_made(home, place, log_id)
        except LogUnavailable as error:
            unavailable[place.number] = error
    if unavailable:
        raise CellsUnavailable(unavailable)


def _check_new(home: CellPlace, others: Sequence[CellPlace]) -> None:
    """Check that a home cell may be made: all of its log is new."""
    for place in others:
        with explained(f"cell {place.number} of the log cannot be reached: "):
            if _exists(place):
                raise _misplaced(home, f"it is missing there, but cell {place.number} exists")


def migrate_new_cell(place: CellPlace) -> None:
    """Make the schema of a cell whose rows are then copied there.

    Raises:
        LogUnavailable, LogUrlError, LogTooNewError: see `migrate_cells`.
    """
    with explained():
        _migrate_cell(place, None)


def _migrate_cell(place: CellPlace, log_id: str | None) -> str:
    """Migrate a cell of this log (None: whichever this is). Return the log's id."""
    check_requirements(place.url)
    engine = _engine(place)
    if not _is_ready(engine, place.schema):
        _migrate(engine, place, log_id)
    found = check_place(engine, place, log_id)
    if place.owner_url is not None:
        _grant(engine, database_engine(place.url), place.schema)
    return found


def _engine(place: CellPlace) -> Engine:
    return database_engine(place.migrating_url, place.schema)


def _exists(place: CellPlace) -> bool:
    """Return whether a cell was made. The first versions kept the home cell in another schema."""
    with _engine(place).connect() as connection:
        is_old = place.number == HOME and bool(connection.execute(_IN_PUBLIC).scalar_one())
        return is_old or bool(applied_revisions(connection, place.schema))


def _made(home: CellPlace) -> frozenset[int]:
    with _engine(home).connect() as connection:
        return frozenset(connection.execute(_MADE).scalars())


def _note_made(home: CellPlace, place: CellPlace, log_id: str) -> None:
    with _transaction(_engine(home)) as connection:
        values = {"number": place.number, "count": place.count, "log_id": log_id}
        connection.execute(_NOTE_MADE, values)


def check_place(engine: Engine, place: CellPlace, log_id: str | None = None) -> str:
    """Check that a cell is the one that it should be. Return its log's id.

    Raises:
        LogUrlError
    """
    with engine.connect() as connection:
        found = connection.execute(_OWN_PLACE, {"number": place.number}).one_or_none()
    if found is None:
        raise _misplaced(place, "the schema there is one of another cell")
    _, count, found_id = found
    if log_id not in {None, found_id}:
        raise _misplaced(place, "the schema there is one of another log")
    if count != place.count:
        raise LogUrlError(
            f"log.cells is {place.count}, but the log was made with {count}: the number is fixed "
            "when a log is made"
        )
    return str(found_id)


def _misplaced(place: CellPlace, why: str) -> LogUrlError:
    return LogUrlError(
        f"log.servers: cell {place.number} (schema {place.schema}) is not where the configuration says: "
        f"{why}; if it was moved, change [[log.servers]]"
    )


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


def _migrate(engine: Engine, place: CellPlace, log_id: str | None) -> None:
    _make_lock(engine, place.schema)
    with _transaction(engine) as connection:
        connection.execute(_TAKE_LOCK)
        config = alembic_config(connection, place.schema)
        ours = ScriptDirectory.from_config(config)
        has_moved = place.number == HOME and _move_from_public(connection, ours)
        if is_of_newer_version(connection, place.schema):
            return
        _refuse_others(connection, ours, place.schema)
        is_new = not applied_revisions(connection, place.schema)
        command.upgrade(config, "head")
        if is_new:
            values = {"number": place.number, "count": place.count, "log_id": log_id}
            connection.execute(_SET_PLACE, values)
        for statement in STAND_IN if has_moved else ():
            connection.execute(statement)


def _grant(owner: Engine, running: Engine, schema: str) -> None:
    """Grant what a coordinator needs to run. It can neither change nor delete what is audited."""
    with running.connect() as connection:
        role: str = connection.execute(text("SELECT current_user")).scalar_one()
    with _transaction(owner) as connection:
        quoted = connection.dialect.identifier_preparer.quote(role)
        connection.execute(_TAKE_LOCK)
        granted = [("USAGE", f"SCHEMA {schema}")]
        granted += [
            (privileges, ", ".join(f"{schema}.{table}" for table in tables))
            for privileges, tables in _PRIVILEGES
        ]
        for privileges, objects in granted:
            connection.execute(text(f"REVOKE ALL ON {objects} FROM {quoted}"))
            connection.execute(text(f"GRANT {privileges} ON {objects} TO {quoted}"))
        if connection.execute(_MAY_REWRITE, {"role": role, "table": f"{schema}.audit"}).scalar_one():
            raise LogUrlError(
                f"log.url: the role {role!r} may still change audit records, because it owns their table or "
                "is a superuser; use another role than that of log.owner_url"
            )


def _move_from_public(connection: Connection, ours: ScriptDirectory) -> bool:
    """Move the log of a first version, if there is one, and return whether there was."""
    if applied_revisions(connection, SCHEMA) or not connection.execute(_IN_PUBLIC).scalar_one():
        return False
    if not set(connection.execute(_VERSION_IN_PUBLIC).scalars()) <= _known_revisions(ours):
        return False
    for statement in _MOVE_FROM_PUBLIC:
        connection.execute(statement)
    return True


def _refuse_others(connection: Connection, ours: ScriptDirectory, schema: str) -> None:
    unknown = applied_revisions(connection, schema) - _known_revisions(ours)
    if any(not _REVISION.fullmatch(revision) for revision in unknown):
        raise LogUrlError(
            f"log.url: the schema {schema} of the database holds the table alembic_version of another "
            f"program (revision {', '.join(sorted(unknown))}): give the log a database of its own"
        )
    if unknown:
        raise LogTooNewError(
            f"the log is at {', '.join(sorted(unknown))}, and this version of tccd supports it up to "
            f"{ours.get_current_head()}: run the version that migrated it"
        )


def _known_revisions(ours: ScriptDirectory) -> set[str]:
    return {migration.revision for migration in ours.walk_revisions()}


def applied_revisions(connection: Connection, schema: str) -> frozenset[str]:
    """Return the migrations that a cell has."""
    options = {"version_table_schema": schema}
    return frozenset(MigrationContext.configure(connection, opts=options).get_current_heads())


def in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def is_of_newer_version(connection: Connection, schema: str) -> bool:
    """Return whether a newer version has migrated the log, so that this version can still run on it."""
    known = _known_revisions(ScriptDirectory.from_config(alembic_config(connection, schema)))
    unknown = applied_revisions(connection, schema) - known
    if not unknown or not all(map(_REVISION.fullmatch, unknown)):
        return False
    return set(connection.execute(_OLDEST).scalars()) <= known


def schema_is_current(url: str) -> bool:
    """Return whether no migration is missing."""
    return _is_ready(database_engine(url), SCHEMA)


def _is_ready(engine: Engine, schema: str) -> bool:
    with engine.connect() as connection:
        wanted = ScriptDirectory.from_config(alembic_config(connection, schema)).get_heads()
        applied = applied_revisions(connection, schema)
        return applied == set(wanted) or is_of_newer_version(connection, schema)


def _make_lock(engine: Engine, schema: str) -> None:
    """Create the lock's table: "if not exists" does not protect against a concurrent creation."""
    try:
        _run_lock_statements(engine, schema)
    except (IntegrityError, ProgrammingError):
        _run_lock_statements(engine, schema)


def _run_lock_statements(engine: Engine, schema: str) -> None:
    with _transaction(engine) as connection:
        # An administrator may have made it for a role that may not.
        if not connection.execute(_HAS_SCHEMA, {"name": schema}).scalar_one():
            connection.execute(text(_MAKE_SCHEMA.format(schema)))
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


def database_engine(url: str, schema: str = SCHEMA) -> Engine:
    """Return an engine without a pool, to the primary of the log, with the settings of `SESSION`.

    Names without a schema are those of `schema`.

    It gives up a server that does not respond; the URL may set those limits. A statement has no time limit.
    """

    def creator() -> psycopg.Connection:
        connection = connect(url)
        psycopg.RawCursor(connection).execute(SESSION.sql, ["0"])
        connection.execute("SELECT set_config('search_path', %s, false)", [schema])
        connection.autocommit = False
        return connection

    return create_engine("postgresql+psycopg://", poolclass=NullPool, creator=creator)


def alembic_config(connection: Connection, schema: str = SCHEMA) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("coordinator.log") / "migrations"))
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    return config
