"""A database that another test has used is as good as a new one."""

from itertools import count

import psycopg
import pytest
from psycopg import sql

from coordinator.embedded_postgres.server import EmbeddedPostgres
from tests.support.databases import Databases
from tests.support.log_schema import LogSchema

_numbers = count()

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


def definitions(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as db:
        return db.execute(
            "SELECT relname, relnatts, relacl::text, CASE relkind WHEN 'r' THEN reltuples END FROM pg_class "
            "WHERE relnamespace = 'tcc'::regnamespace AND relname <> 'alembic_version' ORDER BY 1"
        ).fetchall()


def test_a_reused_log_is_empty_and_knows_no_statistics(
    postgres: EmbeddedPostgres, log_schema: LogSchema
) -> None:
    databases = Databases(postgres, "log")
    with databases.log(log_schema) as url, psycopg.connect(url, autocommit=True) as db:
        before, new = identity(db), definitions(url)
        [secret] = db.execute("SELECT * FROM tcc.coordinator_secrets").fetchall()
        db.execute("INSERT INTO tcc.participants VALUES ('stock', 1, false, 0, 'eve', 'test', now())")
        db.execute("ANALYZE tcc.participants")
    with databases.log(log_schema) as other_url, psycopg.connect(other_url) as db:
        assert other_url != url
        assert identity(db) == before
        assert db.execute("SELECT FROM tcc.participants").fetchall() == []
        # Migrations made it, and no coordinator would again.
        assert db.execute("SELECT * FROM tcc.coordinator_secrets").fetchall() == [secret]
        assert db.execute("SELECT FROM pg_stats WHERE schemaname = 'tcc'").fetchall() == []
        assert definitions(other_url) == new


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE tcc.participants ADD more text",
        "ALTER TABLE tcc.participants ALTER name SET DEFAULT 'stock'",
        "DROP SCHEMA tcc CASCADE",
        "DROP INDEX tcc.transactions_created",
        "GRANT SELECT ON tcc.participants TO PUBLIC",
        "UPDATE tcc.alembic_version SET version_num = '9999'",
        "DELETE FROM tcc.coordinator_secrets",
        "CREATE TABLE public.other ()",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    ],
)
def test_a_log_whose_definition_changed_is_made_again(
    postgres: EmbeddedPostgres, log_schema: LogSchema, change: str
) -> None:
    databases = Databases(postgres, f"changed_{next(_numbers)}")
    with databases.log(log_schema) as url:
        new = definitions(url)
        with psycopg.connect(url) as db:
            db.execute(change)
    with databases.log(log_schema) as url, psycopg.connect(url) as db:
        assert definitions(url) == new
        assert db.execute("SELECT FROM tcc.alembic_version WHERE version_num = '9999'").fetchall() == []
        assert looks(url)[0] == []
