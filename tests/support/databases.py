"""Databases on a server that many tests share, each for one test alone.

Creating and dropping a database writes and removes three hundred files, which takes longer than most
tests. So a database is wiped after its test, and the next test gets it under a new name: a client that
still uses the old name finds nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

import psycopg
from psycopg import sql
from sqlalchemy import make_url

_FORBID = "ALTER DATABASE {} ALLOW_CONNECTIONS false"
_END_ONE_THAT_IS_CONNECTED = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s"
)
_RENAME = "ALTER DATABASE {} RENAME TO {}"
_RESET = "ALTER DATABASE {} RESET ALL"
_ALLOW = "ALTER DATABASE {} ALLOW_CONNECTIONS true"
# As a new database has it.
_EMPTY = """
    DROP SCHEMA IF EXISTS tcc CASCADE;
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
    SELECT pg_stat_reset()
"""


class Server(Protocol):
    """A PostgreSQL server on which tests may do everything."""

    def url(self, database: str = ...) -> str:
        """Return the URL of one of its databases."""

    def create_database(self, name: str) -> None:
        """Create a database."""


class ExternalServer:
    """A server that runs already, by the URL of a superuser."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)

    def url(self, database: str = "postgres") -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    def create_database(self, name: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name))
            )


class Databases:
    """Empty databases of one server."""

    def __init__(self, server: Server, prefix: str = "test") -> None:
        self._server = server
        self._names = (f"{prefix}_{number}" for number in count())
        self._wiped: list[str] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """Yield the URL of an empty database. Connections to it are closed at the end of the block."""
        name = self._wiped.pop() if self._wiped else self._made()
        yield self._server.url(name)
        self._wiped.append(self._wipe(name))

    def _made(self) -> str:
        name = next(self._names)
        self._server.create_database(name)
        return name

    def _wipe(self, name: str) -> str:
        """Leaves it as new, under another name, which is returned."""
        old, new_name = sql.Identifier(name), next(self._names)
        new = sql.Identifier(new_name)
        with psycopg.connect(self._server.url(), autocommit=True) as db:
            db.execute(sql.SQL(_FORBID).format(old))
            db.execute(_END_ONE_THAT_IS_CONNECTED, (name,))
            with db.transaction():
                db.execute(sql.SQL(_RENAME).format(old, new))
                db.execute(sql.SQL(_RESET).format(new))
                db.execute(sql.SQL(_ALLOW).format(new))
        with psycopg.connect(self._server.url(new_name)) as db:
            db.execute(_EMPTY)
        return new_name

    def drop(self) -> None:
        """Drop all of them."""
        with psycopg.connect(self._server.url(), autocommit=True) as db:
            for name in self._wiped:
                db.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
