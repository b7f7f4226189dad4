"""Move a cell of the log to another PostgreSQL server, while coordinators serve the others.

The cell is out of service from the first step to the last, and its callers get UNAVAILABLE:

1. It is *closed* where it is: all of its tables are locked, which waits for what is being written, and
   its schema is renamed in the same transaction. No coordinator finds it any more, however its
   configuration is, and none can write to the old copy later.
2. Its rows are copied into a new schema at the other server, which migrations have made there.
3. Both are compared: the number of rows of each table, and a checksum over all of them.
4. The new schema gets its name. The cell lives there from now on.

If anything fails before the last step, the new schema is dropped, and the old one gets its name back.
Rows are copied by COPY and not by pg_dump: nothing has to be installed, and servers may be of different
versions. This is for plain PostgreSQL, so it may use what the log's statements may not (table locks).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from msgspec import Struct
from msgspec.structs import replace
from psycopg import sql

from coordinator.core.errors import LogUnavailable
from coordinator.log.migration import CellPlace, explained, migrate_new_cell
from coordinator.log.requirements import LogUrlError
from coordinator.log.schema import metadata
from coordinator.log.servers import connect

# How long to wait for statements under way.
LOCK_TIMEOUT_S = 15
# What is left of a cell that was moved away. It can be dropped once the new place is known to be good.
MOVED = "_moved"
_ARRIVING = "_arriving"
_TABLES = tuple(table.name for table in metadata.sorted_tables)
# The order of rows does not matter; the first half of each one's MD5 is added up.
_CHECK = """
    SELECT count(*),
           coalesce(sum(CAST(CAST('x' || left(md5(CAST(copied AS TEXT)), 16) AS BIT(64)) AS BIGINT)), 0)
    FROM {} AS copied
"""
# What the text of a row depends on.
_AS_TEXT = (
    "SELECT set_config('TimeZone', 'UTC', false), set_config('DateStyle', 'ISO', false), "
    "set_config('bytea_output', 'hex', false), set_config('IntervalStyle', 'postgres', false)"
)
_EXISTS = "SELECT to_regnamespace(%s) IS NOT NULL"


class MoveUnknownError(LogUnavailable):
    """It is unknown whether a cell was moved."""


class MovedTable(Struct, frozen=True, kw_only=True):
    """A table that was copied."""

    name: str
    rows: int
    checksum: int


def move_cell(place: CellPlace, new: CellPlace) -> list[MovedTable]:
    """Move a cell from `place` to `new`. Block. Return what was copied.

    Raises:
        LogUnavailable: a server cannot be reached. The cell is where it was, unless the text says otherwise.
        LogUrlError: the cell cannot be moved there.
    """
    with explained(), connect(place.migrating_url) as here, connect(new.migrating_url) as there:
        for connection in (here, there):
            connection.execute(_AS_TEXT)
        _check(here, place, there)
        with _made(new, there) as arriving, _closed(here, place) as moved:
            copied = _copied(here, moved, there, arriving)
            _open(there, arriving, place)
    return copied


def _open(there: psycopg.Connection, arriving: str, place: CellPlace) -> None:
    """Give the new schema its name. Nothing may be undone if it is unknown whether it has it."""
    try:
        there.execute(_rename(arriving, place.schema))
    except psycopg.OperationalError as error:
        raise MoveUnknownError(
            f"the connection was lost while cell {place.number} was opened. If the new server has a schema "
            f"{place.schema}, the cell was moved. If it has {arriving}, the cell was not: drop that one, and "
            f"rename {place.schema}{MOVED} to {place.schema} where it was",
            detail=" ".join(str(error).split()),
        ) from error


def _check(here: psycopg.Connection, place: CellPlace, there: psycopg.Connection) -> None:
    old = f"{place.schema}{MOVED}"
    if not _one(here, _EXISTS, place.schema):
        raise LogUrlError(f"cell {place.number} is not where the configuration says")
    if _one(here, _EXISTS, old):
        raise LogUrlError(f"the cell was moved away before: drop what is left of it, the schema {old}, first")
    if _one(there, _EXISTS, place.schema):
        raise LogUrlError(f"there is a schema {place.schema} already where the cell is to go")


@contextmanager
def _made(new: CellPlace, there: psycopg.Connection) -> Iterator[str]:
    """Make the new schema, under another name. Drop it if the block fails."""
    arriving = f"{new.schema}{_ARRIVING}"
    try:
        migrate_new_cell(replace(new, schema_suffix=_ARRIVING))
        yield arriving
    except MoveUnknownError:
        raise
    except BaseException:
        there.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(arriving)))
        raise


@contextmanager
def _closed(here: psycopg.Connection, place: CellPlace) -> Iterator[str]:
    """Take the cell out of service. Undo that if the block fails."""
    moved = f"{place.schema}{MOVED}"
    tables = sql.SQL(", ").join(sql.Identifier(place.schema, name) for name in _TABLES)
    with here.transaction():
        here.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        here.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
        here.execute(_rename(place.schema, moved))
    try:
        yield moved
    except MoveUnknownError:
        raise
    except BaseException:
        here.execute(_rename(moved, place.schema))
        raise


def _copied(
    here: psycopg.Connection, moved: str, there: psycopg.Connection, arriving: str
) -> list[MovedTable]:
    """Copy all rows in one transaction, and compare them with what they are copies of."""
    copied: list[MovedTable] = []
    with there.transaction():
        for name in _TABLES:
            source, target = sql.Identifier(moved, name), sql.Identifier(arriving, name)
            columns = sql.SQL(", ").join(
                sql.Identifier(column.name) for column in metadata.tables[name].columns
            )
            # Migrations have put rows into some of them.
            there.execute(sql.SQL("DELETE FROM {}").format(target))
            _copy(here, source, there, target, columns)
            before, after = _checked(here, name, source, columns), _checked(there, name, target, columns)
            if before != after:
                raise LogUrlError(f"the copy of {name} differs: {after.rows} rows of {before.rows}")
            copied.append(after)
    return copied


def _copy(
    here: psycopg.Connection,
    source: sql.Composable,
    there: psycopg.Connection,
    target: sql.Composable,
    columns: sql.Composable,
) -> None:
    read = sql.SQL("COPY {} ({}) TO STDOUT").format(source, columns)
    write = sql.SQL("COPY {} ({}) FROM STDIN").format(target, columns)
    with here.cursor().copy(read) as rows, there.cursor().copy(write) as copies:
        for block in rows:
            copies.write(block)


def _checked(
    connection: psycopg.Connection, name: str, table: sql.Composable, columns: sql.Composable
) -> MovedTable:
    chosen = sql.SQL("(SELECT {} FROM {})").format(columns, table)
    ((rows, checksum),) = connection.execute(sql.SQL(_CHECK).format(chosen)).fetchall()
    return MovedTable(name=name, rows=rows, checksum=int(checksum))


def _rename(schema: str, new: str) -> sql.Composed:
    return sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(schema), sql.Identifier(new))


def _one(connection: psycopg.Connection, query: str, value: str) -> Any:
    ((found,),) = connection.execute(query, [value]).fetchall()
    return found
