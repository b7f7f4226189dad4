"""What the log needs of its database, checked before anything is set or created in it."""

import psycopg

from coordinator.log.servers import check_one_primary, connect

_READINGS = 2


class LogUrlError(Exception):
    """The log's URL is wrong in a way that only a connection attempt shows."""


def check_requirements(url: str) -> None:
    """Check that the database at `url` can hold the log.

    Raises:
        LogUrlError: it cannot.
        psycopg.Error: it cannot be reached, or two of several servers say that they are the primary.
    """
    check_one_primary(url)
    with connect(url) as first:
        encoding = _value(first, "SHOW server_encoding")
        if encoding != "UTF8":
            raise LogUrlError(
                f"log.url: the database's encoding is {encoding}, but the log needs UTF8: create the "
                "database with ENCODING 'UTF8' TEMPLATE template0"
            )
        # Behind a pooler the process that executes statements is not the one that was connected to.
        if first.info.backend_pid != _value(first, "SELECT pg_backend_pid()"):
            with connect(url) as second:
                _check_not_shared(first, second)


def _check_not_shared(first: psycopg.Connection, second: psycopg.Connection) -> None:
    """Check that each connection has a server process of its own, as in a pooler's session mode."""
    seen: list[set[object]] = [set(), set()]
    for _ in range(_READINGS):
        for pids, connection in zip(seen, (first, second), strict=True):
            pids.add(_value(connection, "SELECT pg_backend_pid()"))
    if seen[0] & seen[1] or any(len(pids) > 1 for pids in seen):
        raise LogUrlError(
            "log.url: a connection pooler (PgBouncer?) gives each transaction another server connection, "
            "but the log needs one of its own for each session: connect to PostgreSQL directly, or set "
            "pool_mode = session for this database"
        )


def _value(connection: psycopg.Connection, statement: str) -> object:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]
