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
    ("SELECT, INSERT, UPDATE, DELETE", ("transactions", "coordinators", "outcomes_awaited")),
    ("SELECT, INSERT, UPDATE", ("participants", "erasures", "outcome_positions")),
    ("SELECT, INSERT", ("audit", "audit_heads")),
    ("SELECT", ("alembic_version", "coordinator_secrets", "cells")),
)
# Migrations may be missing: a schema that was left behind gets none.
_CELLS = """
    SELECT number, count, log_id,
           CAST(coalesce(to_jsonb(cells) ->> 'generation', '1') AS BIGINT),
           coalesce(to_jsonb(cells) ->> 'moved_at', ''),
           coalesce(to_jsonb(cells) ->> 'moved_to', '')
    FROM {}.cells
"""
_SET_PLACE = text("UPDATE cells SET number = :number, count = :count, log_id = coalesce(:log_id, log_id)")
_RECORD = text("""
    INSERT INTO cells (number, count, log_id, generation) VALUES (:number, :count, :log_id, :generation)
    ON CONFLICT (number) DO UPDATE SET generation = greatest(cells.generation, excluded.generation)
""")
_HAS_TABLE = text("SELECT to_regclass(:name) IS NOT NULL")
# The owner of a table can give itself every privilege. A superuser is a member of every role.
_MAY_REWRITE = text(
    "SELECT pg_has_role(:role, relowner, 'MEMBER') FROM pg_class WHERE oid = to_regclass(:table)"
)
# What is left of a cell that was moved away. It can be dropped once the new place is known to be good.
MOVED = "_moved"
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


class CellRecord(Struct, frozen=True, kw_only=True):
    """What a copy of a cell says of itself, or the home cell of another one."""

    number: int
    count: int
    log_id: str
    # 1 where the cell was made; each move raises it.
    generation: int
    # When and where to the cell has left this copy; empty: it has not.
    moved_at: str = ""
    moved_to: str = ""

    @property
    def departure(self) -> str:
        """When and where to the cell has left this copy, as far as that is known."""
        at = f" at {self.moved_at}" if self.moved_at else ""
        return f"{at} to {self.moved_to}" if self.moved_to else at


def migrate(url: str, owner_url: str | None = None) -> None:
    """Apply the migrations that the database of a log of one cell lacks. See `migrate_cells`."""
    migrate_cells([CellPlace(number=HOME, count=1, url=url, owner_url=owner_url)])


def migrate_cells(places: Sequence[CellPlace]) -> None:
    """Apply the migrations that cells lack, the home cell first. Block while another process migrates.

    If one lacks none, nothing is written, so that a role without the right to create is enough. It may have
    those of a newer version, while coordinators of both run side by side.
    With `owner_url`, that role migrates, and the one of `url` gets the privileges to run, no more.
    A cell that was made once is never made again: it was moved, and this would be a second one.
    A copy of a cell that is older than the home cell knows is refused, and one that the cell has left.

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
        log_id = _migrate_cell(home, None).log_id
        made = recorded_cells(home, home.migrating_url)
    for place in others:
        recorded = made.get(place.number)
        try:
            with explained(f"cell {place.number} of the log cannot be reached: "):
                if recorded is not None and not _exists(place):
                    _refuse_moved(place)
                    raise _misplaced(place, "it is missing there")
                found = _migrate_cell(place, log_id, recorded)
                if recorded is None or found.generation > recorded.generation:
                    record_cell(home, found)
        except LogUnavailable as error:
            unavailable[place.number] = error
    if unavailable:
        raise CellsUnavailable(unavailable)


def _check_new(home: CellPlace, others: Sequence[CellPlace]) -> None:
    """Check that a home cell may be made: all of its log is new."""
    with explained("the log cannot be reached: "):
        _refuse_moved(home)
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


def _migrate_cell(place: CellPlace, log_id: str | None, recorded: CellRecord | None = None) -> CellRecord:
    """Migrate a cell of this log (None: whichever this is). Return what it says of itself."""
    check_requirements(place.url)
    engine = _engine(place)
    if not _is_ready(engine, place.schema):
        _migrate(engine, place, log_id)
    found = check_place(engine, place, log_id, recorded)
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


def recorded_cells(home: CellPlace, url: str) -> dict[int, CellRecord]:
    """Return what the home cell knows of all cells that were made."""
    with database_engine(url, home.schema).connect() as connection:
        return _cells(connection, home.schema)


def _cells(connection: Connection, schema: str) -> dict[int, CellRecord]:
    return {
        number: CellRecord(
            number=number,
            count=count,
            log_id=log_id,
            generation=generation,
            moved_at=moved_at,
            moved_to=moved_to,
        )
        for number, count, log_id, generation, moved_at, moved_to in connection.execute(
            text(_CELLS.format(schema))
        )
    }


def record_cell(home: CellPlace, found: CellRecord) -> None:
    """Record in the home cell that a cell was made, or was moved: older copies are refused from now on."""
    with _transaction(_engine(home)) as connection:
        values = {
            "number": found.number,
            "count": found.count,
            "log_id": found.log_id,
            "generation": found.generation,
        }
        connection.execute(_RECORD, values)


def cell_record(engine: Engine, place: CellPlace, schema: str) -> CellRecord | None:
    """Return what a copy of a cell says of itself; None: this schema has no copy of it."""
    with engine.connect() as connection:
        if not connection.execute(_HAS_TABLE, {"name": f"{schema}.cells"}).scalar_one():
            return None
        return _cells(connection, schema).get(place.number)


def check_place(
    engine: Engine, place: CellPlace, log_id: str | None = None, recorded: CellRecord | None = None
) -> CellRecord:
    """Check that a cell is the one that it should be. Return what it says of itself.

    `recorded`: what the home cell knows of it.

    Raises:
        LogUrlError
    """
    with engine.connect() as connection:
        found = _cells(connection, place.schema).get(place.number)
    if found is None:
        raise _misplaced(place, "the schema there is one of another cell")
    if log_id not in {None, found.log_id}:
        raise _misplaced(place, "the schema there is one of another log")
    if found.count != place.count:
        raise LogUrlError(
            f"log.cells is {place.count}, but the log was made with {found.count}: the number is fixed "
            "when a log is made"
        )
    if found.moved_at:
        raise _misplaced(place, f"the cell has left this copy{found.departure}")
    if recorded is not None and found.generation < recorded.generation:
        raise _misplaced(
            place,
            f"the copy there is of generation {found.generation}, but the cell was moved since, and is of "
            f"generation {recorded.generation}",
        )
    return found


def check_cells(places: Sequence[CellPlace], numbers: Sequence[int]) -> dict[int, CellRecord]:
    """Check that cells are where `places` say, before a coordinator follows them. Block.

    Return what they say of themselves. Nothing is written: the roles that coordinators run with are enough.

    Raises:
        LogUnavailable: the home cell or one of them cannot be reached.
        LogUrlError: one of them is another copy, or not there at all.
    """
    home = places[HOME]
    found: dict[int, CellRecord] = {}
    with explained("cell 0 of the log cannot be reached: "):
        log_id = check_place(database_engine(home.url, home.schema), home).log_id
        made = recorded_cells(home, home.url)
    for number in numbers:
        place = places[number]
        with explained(f"cell {number} of the log cannot be reached: "):
            engine = database_engine(place.url, place.schema)
            found[number] = check_place(engine, place, log_id, made.get(number))
    return found


def _misplaced(place: CellPlace, why: str) -> LogUrlError:
    return LogUrlError(
        f"log.servers: cell {place.number} (schema {place.schema}) is not where the configuration says: "
        f"{why}; if it was moved, change [[log.servers]]"
    )


def _refuse_moved(place: CellPlace) -> None:
    """Check that a cell which is missing was not moved away.

    Raises:
        LogUrlError
    """
    with _engine(place).connect() as connection:
        _check_not_moved(connection, place)


def _check_not_moved(connection: Connection, place: CellPlace) -> None:
    left = place.schema + MOVED
    if not connection.execute(_HAS_SCHEMA, {"name": left}).scalar_one():
        return
    has_record = connection.execute(_HAS_TABLE, {"name": f"{left}.cells"}).scalar_one()
    found = _cells(connection, left).get(place.number) if has_record else None
    raise LogUrlError(
        f"log.url: cell {place.number} of the log was moved away from here{found.departure if found else ''} "
        f"(schema {left}): use the configuration that has its new place, in [log] url or [[log.servers]]; if "
        "the move was interrupted, run tccd cells move again. Only if this log shall really begin from "
        "nothing, drop or rename that schema"
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
    _make_lock(engine, place)
    with _transaction(engine) as connection:
        connection.execute(_TAKE_LOCK)
        config = alembic_config(connection, place.schema)
        ours = ScriptDirectory.from_config(config)
        has_moved = place.number == HOME and _move_from_public(connection, ours)
        if is_of_newer_version(connection, place.schema):
            return
        _refuse_others(connection, ours, place.schema)
        is_new = not applied_revisions(connection, place.schema)
        if is_new:
            _check_not_moved(connection, place)
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


def _make_lock(engine: Engine, place: CellPlace) -> None:
    """Create the lock's table: "if not exists" does not protect against a concurrent creation."""
    try:
        _run_lock_statements(engine, place)
    except (IntegrityError, ProgrammingError):
        _run_lock_statements(engine, place)


def _run_lock_statements(engine: Engine, place: CellPlace) -> None:
    with _transaction(engine) as connection:
        # An administrator may have made it for a role that may not.
        if not connection.execute(_HAS_SCHEMA, {"name": place.schema}).scalar_one():
            _check_not_moved(connection, place)
            connection.execute(text(_MAKE_SCHEMA.format(place.schema)))
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
