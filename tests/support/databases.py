"""Databases on a server that many tests share, each for one test alone.

Creating and dropping a database writes and removes three hundred files, which takes longer than most
tests. So a database is wiped after its test, and the next test gets it under a new name: a client that
still uses the old name finds nothing. Creating the log's tables takes as long again. So a log is emptied,
unless its test changed more than the rows that coordinators write: then the database is wiped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple, Protocol

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from tests.support.log_schema import LogSchema

_CREATE = "CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'"
# A database with the extension of Citus, whose creation takes seconds.
# It is complete once nothing may connect to it.
_CITUS = "tcc_test_citus"
_IS_COMPLETE = "SELECT NOT datallowconn FROM pg_database WHERE datname = %s"
_WORKERS = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 AND isactive ORDER BY groupid"
_FORBID = "ALTER DATABASE {} ALLOW_CONNECTIONS false"
_END_ONE_THAT_IS_CONNECTED = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s"
)
_RENAME = "ALTER DATABASE {} RENAME TO {}"
_RESET = "ALTER DATABASE {} RESET ALL"
_ALLOW = "ALTER DATABASE {} ALLOW_CONNECTIONS true"
# As a new database has it.
_EMPTY = r"""
    DROP SCHEMA IF EXISTS tcc CASCADE;
    DO $$ DECLARE name TEXT; BEGIN
        FOR name IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tcc\_%' LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', name);
        END LOOP;
    END $$;
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
    SELECT pg_stat_reset()
"""


# What is written into a catalog row changes its xmin. From this oid on, objects are not PostgreSQL's own.
_DEFINITIONS = """
    SELECT tableoid, oid, xmin::text FROM pg_namespace
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT tableoid, attrelid, attnum || ' ' || xmin FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_attrdef
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT tableoid, indexrelid, xmin::text FROM pg_index WHERE indexrelid >= 16384
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_trigger
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_default_acl
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_extension
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_event_trigger
    UNION ALL SELECT tableoid, oid, xmin::text FROM pg_largeobject_metadata
    ORDER BY 1, 2, 3
"""
_FILLED = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'tcc'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
    ORDER BY relname
"""
_ROWS = "SELECT xmin::text, ctid::text FROM {} ORDER BY 2"
_FORGET_STATISTICS = "DELETE FROM pg_statistic WHERE starelid >= 16384"


class _Log(NamedTuple):
    """An empty log: its database, the tables that migrations fill, and how all is defined there."""

    name: str
    kept: list[str]
    definition: list[tuple[object, ...]]


class Server(Protocol):
    """A PostgreSQL server on which tests may do everything."""

    def url(self, database: str = ...) -> str:
        """Return the URL of one of its databases."""

    def create_database(self, name: str) -> None:
        """Create a database."""


class ExternalServer:
    """A server that runs already, by the URL of a superuser. It may be the coordinator node of Citus."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        with psycopg.connect(self.url(), autocommit=True) as db:
            ((libraries,),) = db.execute("SHOW shared_preload_libraries").fetchall()
            self.is_citus = "citus" in libraries
            self.workers: list[tuple[str, int]] = db.execute(_WORKERS).fetchall() if self.is_citus else []

    def url(self, database: str = "postgres") -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    def nodes(self, database: str = "postgres") -> list[str]:
        """Return the URLs of a database at all nodes."""
        workers = [self._url.set(database=database, host=host, port=port) for host, port in self.workers]
        return [self.url(database), *(url.render_as_string(hide_password=False) for url in workers)]

    def create_database(self, name: str) -> None:
        for number, url in enumerate(self.nodes()):
            with psycopg.connect(url, autocommit=True) as db:
                if self.is_citus:
                    _make_template(db, self.nodes(_CITUS)[number])
                _create(db, name, _CITUS if self.is_citus else "template0")
        if self.is_citus:
            self._make_cluster(name)

    def drop_database(self, name: str) -> None:
        """Drop a database. One of a cluster can be used only once: it is known by its name at all nodes."""
        for url in self.nodes():
            with psycopg.connect(url, autocommit=True) as db:
                db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _make_cluster(self, name: str) -> None:
        """Make a cluster of the databases of this name. The workers have all shards, if there are any."""
        with psycopg.connect(self.url(name), autocommit=True) as db:
            node = (self._url.host, self._url.port)
            db.execute("SELECT citus_set_coordinator_host(%s, %s)", node)
            db.execute(
                "SELECT citus_set_node_property(%s, %s, 'shouldhaveshards', %s)", (*node, not self.workers)
            )
            for worker in self.workers:
                db.execute("SELECT citus_add_node(%s, %s)", worker)


def _create(db: psycopg.Connection, name: str, template: str) -> None:
    db.execute(sql.SQL(_CREATE).format(sql.Identifier(name), sql.Identifier(template)))


def _make_template(db: psycopg.Connection, url: str) -> None:
    """Make the database with the extension of Citus, at `url`, unless it is complete."""
    if db.execute(_IS_COMPLETE, (_CITUS,)).fetchone() == (True,):
        return
    template = sql.Identifier(_CITUS)
    db.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(template))
    _create(db, _CITUS, "template0")
    with psycopg.connect(url, autocommit=True) as made:
        made.execute("CREATE EXTENSION citus")
    db.execute(sql.SQL(_FORBID).format(template))
    db.execute(_END_ONE_THAT_IS_CONNECTED, (_CITUS,))


class Databases:
    """Empty databases of one server, and empty logs."""

    def __init__(self, server: Server, prefix: str = "test") -> None:
        self._server = server
        self._names = (f"{prefix}_{number}" for number in count())
        self._wiped: list[str] = []
        self._logs: list[_Log] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """Yield the URL of an empty database. Connections to it are closed at the end of the block."""
        name = self._empty()
        yield self._server.url(name)
        if isinstance(self._server, ExternalServer) and self._server.is_citus:
            self._server.drop_database(name)
            return
        name = self._rename(name)
        with psycopg.connect(self._server.url(name)) as db:
            db.execute(_EMPTY)
        self._wiped.append(name)

    @contextmanager
    def log(self, schema: LogSchema) -> Iterator[str]:
        """Yield the URL of an empty log. Connections to it are closed at the end of the block."""
        if isinstance(self._server, ExternalServer) and self._server.is_citus:
            with self.one() as url:
                schema.make(url)
                yield url
            return
        log = self._logs.pop() if self._logs else self._make_log(schema)
        yield self._server.url(log.name)
        name = self._rename(log.name)
        with psycopg.connect(self._server.url(name)) as db:
            if _is_unchanged(db, log):
                _empty_tables(db, log.kept)
                self._logs.append(_Log(name, log.kept, _definition(db, log.kept)))
            else:
                db.execute(_EMPTY)
                self._wiped.append(name)

    def _empty(self) -> str:
        if self._wiped:
            return self._wiped.pop()
        name = next(self._names)
        self._server.create_database(name)
        return name

    def _make_log(self, schema: LogSchema) -> _Log:
        name = self._empty()
        schema.make(self._server.url(name))
        with psycopg.connect(self._server.url(name)) as db:
            kept = _filled(db)
            return _Log(name, kept, _definition(db, kept))

    def _rename(self, name: str) -> str:
        """Close the connections to a database, undo its settings, and return its new name."""
        old, new_name = sql.Identifier(name), next(self._names)
        new = sql.Identifier(new_name)
        with psycopg.connect(self._server.url(), autocommit=True) as db:
            db.execute(sql.SQL(_FORBID).format(old))
            db.execute(_END_ONE_THAT_IS_CONNECTED, (name,))
            with db.transaction():
                db.execute(sql.SQL(_RENAME).format(old, new))
                db.execute(sql.SQL(_RESET).format(new))
                db.execute(sql.SQL(_ALLOW).format(new))
        return new_name

    def drop(self) -> None:
        """Drop all of them."""
        with psycopg.connect(self._server.url(), autocommit=True) as db:
            for name in [*self._wiped, *(log.name for log in self._logs)]:
                db.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def _is_unchanged(db: psycopg.Connection, log: _Log) -> bool:
    """Return whether a database still has the log's schema as it was made."""
    try:
        return _definition(db, log.kept) == log.definition
    except psycopg.errors.UndefinedTable:
        db.rollback()
        return False


def _definition(db: psycopg.Connection, kept: list[str]) -> list[tuple[object, ...]]:
    """Return what stays the same while only rows of other tables than the kept ones are written."""
    rows = [row for name in kept for row in db.execute(sql.SQL(_ROWS).format(_table(name)))]
    return rows + db.execute(_DEFINITIONS).fetchall()


def _empty_tables(db: psycopg.Connection, kept: list[str]) -> None:
    """Empty all other tables. This changes their definition: they get new files."""
    tables = [_table(name) for name in _filled(db) if name not in kept]
    if tables:
        db.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(tables)))
    db.execute(_FORGET_STATISTICS)
    db.execute("SELECT pg_stat_reset()")


def _filled(db: psycopg.Connection) -> list[str]:
    return [name for (name,) in db.execute(_FILLED)]


def _table(name: str) -> sql.Identifier:
    return sql.Identifier("tcc", name)
