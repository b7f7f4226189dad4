"""A database that another test has used is as good as a new one."""

import psycopg
import pytest
from psycopg import sql

from coordinator.embedded_postgres.server import EmbeddedPostgres
from tests.support.databases import Databases

LOOKS = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    "SELECT nspowner::regrole::text, nspacl::text FROM pg_namespace WHERE nspname = 'public'",
    """SELECT setconfig FROM pg_db_role_setting JOIN pg_database ON setdatabase = pg_database.oid
       WHERE datname = current_database()""",
    "SELECT temp_files FROM pg_stat_database WHERE datname = current_database()",
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
)


def looks(url: str) -> list[list[tuple[object, ...]]]:
    with psycopg.connect(url) as db:
        return [db.execute(look).fetchall() for look in LOOKS]


def identity(db: psycopg.Connection) -> tuple[object, ...] | None:
    return db.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()


def test_a_reused_database_keeps_nothing_of_the_previous_test(postgres: EmbeddedPostgres) -> None:
    databases = Databases(postgres, "again")
    with databases.one() as url:
        new = looks(url)
        stays = psycopg.connect(url, autocommit=True)
        before = identity(stays)
        name = sql.Identifier(stays.info.dbname)
        stays.execute("CREATE TABLE left_over AS SELECT FROM generate_series(1, 1000)")
        stays.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        stays.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        stays.execute("SET work_mem = '64kB'")
        stays.execute("SELECT n FROM generate_series(1, 50000) AS n ORDER BY random()")
        stays.execute("SELECT pg_stat_force_next_flush()")
        assert [one != another for one, another in zip(looks(url), new, strict=True)] == [True] * len(LOOKS)
    with databases.one() as other_url, psycopg.connect(other_url) as db:
        assert identity(db) == before
    with databases.one() as other_url:
        assert looks(other_url) == new
    with pytest.raises(psycopg.OperationalError):
        stays.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)
