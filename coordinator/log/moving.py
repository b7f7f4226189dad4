"""Move a cell of the log to another PostgreSQL server, while coordinators serve the others.

The cell is out of service from the first step to the last, and its callers get UNAVAILABLE:

1. It is *closed* where it is: all of its tables are locked, which waits for what is being written, and
   its schema is renamed in the same transaction, with a note of when and where to it leaves. No coordinator
   finds it any more, however its configuration is. Under its old name again, none starts on it, and none that
   runs can write to it.
2. Its rows are copied into a new schema at the other server, which migrations have made there.
3. Both are compared: the number of rows of each table, and a checksum over all of them.
4. The new schema gets its name, and the next generation. The cell lives there from now on.
5. The home cell records the generation, so that older copies of the cell are refused.

If anything fails before the fourth step, the new schema is dropped, and the old one gets its name back. If
this process is killed, or loses a server, the same move again finishes or undoes what it left: the cell has
moved if it has its name at the new place. Locks keep a second process out as long as a statement of the first
one may still take effect.
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
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import Engine

from coordinator.core.errors import LogUnavailable
from coordinator.log.migration import (
    MOVED,
    CellPlace,
    CellRecord,
    cell_record,
    check_place,
    database_engine,
    explained,
    migrate_new_cell,
    record_cell,
    recorded_cells,
)
from coordinator.log.requirements import LogUrlError
from coordinator.log.schema import HOME, metadata
from coordinator.log.servers import connect, libpq_url, servers

# How long to wait for statements under way.
LOCK_TIMEOUT_S = 15
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
# Tables that have another name in a copy that is left, so that coordinators which run find none there, even
# if its schema gets the old name back: they look at nothing else.
_FENCED = ("transactions", "coordinators")
_LEFT = "UPDATE {}.cells SET moved_at = now(), moved_to = %s WHERE number = %s"
_NOT_LEFT = "UPDATE {}.cells SET moved_at = NULL, moved_to = NULL WHERE number = %s"
_ARRIVED = "UPDATE {}.cells SET generation = %s, moved_at = NULL, moved_to = NULL WHERE number = %s"
# Locks of a session, which end with it: of the server that a cell leaves, and of that where it arrives.
_LOCK = "SELECT pg_try_advisory_lock(hashtext(%s))"
_LEAVING, _ARRIVES = "tcc cell leaves: ", "tcc cell arrives: "


class MoveUnknownError(LogUnavailable):
    """It is unknown whether a cell was moved."""


class MovedTable(Struct, frozen=True, kw_only=True):
    """A table that was copied."""

    name: str
    rows: int
    checksum: int


def move_cell(place: CellPlace, new: CellPlace, *, home: CellPlace) -> list[MovedTable]:
    """Move a cell from `place` to `new`, or finish that. Block. Return what was copied.

    `home`: where the home cell is before the move.

    Raises:
        LogUnavailable: a server cannot be reached. The cell is where it was, unless the text says otherwise.
        LogUrlError: the cell cannot be moved there.
    """
    copied: list[MovedTable] = []
    with explained(), connect(place.migrating_url) as here, connect(new.migrating_url) as there:
        for connection in (here, there):
            connection.execute(_AS_TEXT)
        _lock(here, _LEAVING, place)
        _lock(there, _ARRIVES, place)
        if not _has_moved(here, place, there, new):
            _undo_interrupted(here, place, there, new)
            generation = _check(here, place, there, home) + 1
            with _made(new, there) as arriving, _closed(here, place, new) as moved:
                copied = _copied(here, moved, there, arriving)
                _open(there, arriving, new, generation)
    if place.number != HOME:
        _record(home, new)
    return copied


def _lock(connection: psycopg.Connection, side: str, place: CellPlace) -> None:
    if not _one(connection, _LOCK, f"{side}{place.schema}"):
        raise LogUrlError(
            f"cell {place.number} is being moved by another process, or PostgreSQL has not noticed yet that "
            "this one has ended: wait, and try again"
        )


def _has_moved(here: psycopg.Connection, place: CellPlace, there: psycopg.Connection, new: CellPlace) -> bool:
    """Return whether an earlier move to this place has opened the cell there."""
    if _one(here, _EXISTS, place.schema) or not _one(there, _EXISTS, place.schema):
        return False
    left, found = _left(place), cell_record(_owner(new), new, new.schema)
    return (
        left is not None
        and found is not None
        and found.log_id == left.log_id
        and found.generation > left.generation
        and not found.moved_at
    )


def _undo_interrupted(
    here: psycopg.Connection, place: CellPlace, there: psycopg.Connection, new: CellPlace
) -> None:
    """Undo a move that has closed the cell, and has not opened it at the new place."""
    is_closed = not _one(here, _EXISTS, place.schema) and _one(here, _EXISTS, f"{place.schema}{MOVED}")
    left = _left(place) if is_closed and not _one(there, _EXISTS, place.schema) else None
    if left is None:
        return
    if left.moved_to != _name(new):
        raise LogUrlError(
            f"cell {place.number} has left{left.departure}. If that move was interrupted, run it again with "
            "the configuration that has the cell there"
        )
    _reopen(here, place)


def _left(place: CellPlace) -> CellRecord | None:
    return cell_record(_owner(place), place, f"{place.schema}{MOVED}")


def _owner(place: CellPlace) -> Engine:
    return database_engine(place.migrating_url, place.schema)


def _name(place: CellPlace) -> str:
    """Return the database of a cell without its credentials: HOST:PORT/NAME."""
    database = conninfo_to_dict(libpq_url(place.url)).get("dbname") or ""
    return f"{','.join(server.name for server in servers(place.url))}/{database}"


def _open(there: psycopg.Connection, arriving: str, new: CellPlace, generation: int) -> None:
    """Give the new schema its name. Nothing may be undone if it is unknown whether it has it."""
    try:
        with there.transaction():
            there.execute(sql.SQL(_ARRIVED).format(sql.Identifier(arriving)), [generation, new.number])
            there.execute(_rename(arriving, new.schema))
    except (psycopg.OperationalError, KeyboardInterrupt) as error:
        raise MoveUnknownError(
            f"it is unknown whether cell {new.number} was opened at the new place: run the same command "
            "again, which finishes the move or undoes it",
            detail=" ".join(str(error).split()),
        ) from error


def _record(home: CellPlace, new: CellPlace) -> None:
    """Record in the home cell that the cell was moved."""
    try:
        with explained():
            record_cell(home, check_place(_owner(new), new))
    except LogUnavailable as error:
        raise MoveUnknownError(
            f"cell {new.number} was moved, but the home cell could not record it, so that older copies are "
            "not refused yet: run the same command again",
            detail=error.explained,
        ) from error


def _check(here: psycopg.Connection, place: CellPlace, there: psycopg.Connection, home: CellPlace) -> int:
    """Check that the cell can be moved. Return its generation."""
    old = f"{place.schema}{MOVED}"
    if not _one(here, _EXISTS, place.schema):
        raise LogUrlError(f"cell {place.number} is not where the configuration says")
    if _one(here, _EXISTS, old):
        raise LogUrlError(f"the cell was moved away before: drop what is left of it, the schema {old}, first")
    if _one(there, _EXISTS, place.schema):
        raise LogUrlError(f"there is a schema {place.schema} already where the cell is to go")
    recorded = recorded_cells(home, home.migrating_url).get(place.number)
    return check_place(_owner(place), place, recorded=recorded).generation


@contextmanager
def _made(new: CellPlace, there: psycopg.Connection) -> Iterator[str]:
    """Make the new schema, under another name. Drop it if the block fails."""
    arriving = f"{new.schema}{_ARRIVING}"
    drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(arriving))
    there.execute(drop)  # what an interrupted move has left
    try:
        migrate_new_cell(replace(new, schema_suffix=_ARRIVING))
        yield arriving
    except MoveUnknownError:
        raise
    except BaseException:
        there.execute(drop)
        raise


@contextmanager
def _closed(here: psycopg.Connection, place: CellPlace, new: CellPlace) -> Iterator[str]:
    """Take the cell out of service. Undo that if the block fails."""
    moved = f"{place.schema}{MOVED}"
    tables = sql.SQL(", ").join(sql.Identifier(place.schema, name) for name in _TABLES)
    with here.transaction():
        here.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        here.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
        left = sql.SQL(_LEFT).format(sql.Identifier(place.schema))
        here.execute(left, [_name(new), place.number])
        for name in _FENCED:
            here.execute(_rename_table(place.schema, name, _fenced(name)))
        here.execute(_rename(place.schema, moved))
    try:
        yield moved
    except MoveUnknownError:
        raise
    except BaseException:
        _reopen(here, place)
        raise


def _reopen(here: psycopg.Connection, place: CellPlace) -> None:
    with here.transaction():
        here.execute(_rename(f"{place.schema}{MOVED}", place.schema))
        for name in _FENCED:
            here.execute(_rename_table(place.schema, _fenced(name), name))
        here.execute(sql.SQL(_NOT_LEFT).format(sql.Identifier(place.schema)), [place.number])


def _copied(
    here: psycopg.Connection, moved: str, there: psycopg.Connection, arriving: str
) -> list[MovedTable]:
    """Copy all rows in one transaction, and compare them with what they are copies of."""
    copied: list[MovedTable] = []
    with there.transaction():
        for name in _TABLES:
            source, target = sql.Identifier(moved, _fenced(name)), sql.Identifier(arriving, name)
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


def _fenced(table: str) -> str:
    """Return the name of a table in a copy that is left."""
    return f"{table}{MOVED}" if table in _FENCED else table


def _rename_table(schema: str, table: str, new: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(schema, table), sql.Identifier(new))


def _rename(schema: str, new: str) -> sql.Composed:
    return sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(schema), sql.Identifier(new))


def _one(connection: psycopg.Connection, query: str, value: str) -> Any:
    ((found,),) = connection.execute(query, [value]).fetchall()
    return found
