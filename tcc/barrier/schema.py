"""The barrier's table and its migrations.

The table is in the participant's own database, beside its business tables,
because a barrier row and the business change commit together or not at all.

`create_schema` migrates a database to the newest version by the numbered steps
below. Each step is recorded in `tcc_barrier_version`. Every process may call it at
every start. Teams with migrations of their own may instead add `metadata` to their
Alembic target.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects.mysql import LONGBLOB, VARBINARY
from sqlalchemy.exc import DBAPIError

metadata = MetaData()
_FILLFACTOR = 40


def _key() -> String:
    # Compared byte by byte everywhere: MySQL's default collations treat "A" as equal to
    # "a" and "a" to "a ", and on PostgreSQL "C" is also the fastest.
    return (
        String(128)
        .with_variant(String(128, collation="C"), "postgresql")
        .with_variant(VARBINARY(128), "mysql", "mariadb")
    )


barrier = Table(
    "tcc_barrier",
    metadata,
    Column("gid", _key(), primary_key=True),
    Column("branch_id", _key(), primary_key=True),
    Column("action", String(128), nullable=False),
    Column("state", SmallInteger, nullable=False),
    # Milliseconds since the Unix epoch; 0 if the caller gave no expiry.
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("try_result", LargeBinary().with_variant(LONGBLOB, "mysql", "mariadb")),
    Column("try_result_content_type", String(128)),
    # SHA-256 of the content of the Try; absent in a tombstone.
    Column("digest", LargeBinary().with_variant(VARBINARY(32), "mysql", "mariadb")),
    # The kind of the branch, numbered as in the contract; absent in rows of an older version: TCC.
    Column("kind", SmallInteger),
    # Every row is updated once or twice: the result of Try, then Confirm or Cancel. An update
    # in place, if the page has room, costs half as much as one that moves to another page.
    postgresql_with={"fillfactor": _FILLFACTOR},
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
)
# For the purge. The column never changes, so updates remain in place.
Index("tcc_barrier_expires_at_ms", barrier.c.expires_at_ms)

_version = Table("tcc_barrier_version", MetaData(), Column("version", Integer, primary_key=True))


def _create_barrier(connection: Connection) -> None:
    metadata.create_all(connection)


def _leave_room_for_results(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"ALTER TABLE tcc_barrier SET (fillfactor = {_FILLFACTOR})"))


def _add_digest(connection: Connection) -> None:
    _add_column(connection, barrier.c.digest)


def _add_kind(connection: Connection) -> None:
    _add_column(connection, barrier.c.kind)


def _add_column(connection: Connection, column: Column[Any]) -> None:
    # A table that the first step has just created already has the column.
    if column.name not in {found["name"] for found in inspect(connection).get_columns("tcc_barrier")}:
        column_type = column.type.compile(connection.dialect)
        connection.execute(text(f"ALTER TABLE tcc_barrier ADD COLUMN {column.name} {column_type}"))


# Append only: a step that has shipped is never changed.
STEPS: tuple[Callable[[Connection], None], ...] = (
    _create_barrier,
    _leave_room_for_results,
    _add_digest,
    _add_kind,
)

# How often a start that races with another process tries again.
_RACES_MAX = 8


def migrate(connection: Connection) -> int:
    """Apply the missing steps; return their number.

    The caller owns the transaction. If two processes race, one of them gets a database error
    and finds the work done when it tries again.
    """
    _version.metadata.create_all(connection)
    done = set(connection.scalars(select(_version.c.version)))
    missing = [number for number in range(1, len(STEPS) + 1) if number not in done]
    for number in missing:
        STEPS[number - 1](connection)
        connection.execute(insert(_version).values(version=number))
    return len(missing)


def lost_race(error: DBAPIError, races: int) -> bool:
    """Return whether a failed `migrate` may have raced with another process and should be repeated."""
    return races < _RACES_MAX and not error.connection_invalidated
