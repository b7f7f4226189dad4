import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from hashlib import sha256

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from msgspec.structs import replace
from sqlalchemy import text

from coordinator.core.audit import NO_HASH, AuditEntry, AuditHead, first_break
from coordinator.core.errors import LogUnavailable
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log.diagnosis import examine
from coordinator.log.migration import (
    LogTooNewError,
    alembic_config,
    database_engine,
    migrate,
    schema_is_current,
)
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.log.schema import metadata


def test_migrating_makes_the_schema_current_and_repeats_harmlessly(database_url: str) -> None:
    assert not schema_is_current(database_url)
    migrate(database_url)
    assert schema_is_current(database_url)
    migrate(database_url.replace("postgresql:", "postgresql+psycopg:"))
    assert schema_is_current(database_url)


def test_the_migrations_come_to_what_the_statements_use(log_url: str) -> None:
    engine = database_engine(log_url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        differences = [
            difference
            for difference in compare_metadata(context, metadata)
            if not (difference[0] == "remove_table" and difference[1].name == "migration_lock")
        ]
    engine.dispose()
    assert differences == []


def test_transactions_from_before_the_cancel_message_have_an_empty_one(database_url: str) -> None:
    """Also those that an older coordinator, which does not know the column, still writes."""
    insert = """INSERT INTO tcc.transactions
        (gid, version, state, owner, interactive, initiator, labels, fingerprint, branches, payloads,
         participants, cancel_reason, cancel_detail, created_at, expires_at)
        VALUES (%s, 2, 3, 'c', false, '', '{}', '', '', '', '{}', 1, 'SOLD_OUT', now(), now())"""
    engine = database_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA tcc"))
        command.upgrade(alembic_config(connection), "0004")
    engine.dispose()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(insert, ("before",))
        migrate(database_url)
        connection.execute(insert, ("after",))
        rows = connection.execute(
            "SELECT gid, cancel_detail, cancel_message FROM tcc.transactions ORDER BY gid"
        )
        assert rows.fetchall() == [("after", "SOLD_OUT", ""), ("before", "SOLD_OUT", "")]


async def test_audit_records_from_before_the_role_still_verify(database_url: str) -> None:
    former = b'[1,5,"ann","transaction.hold","transaction/g","why","{}","bo","token","ipv4:1","ann-1"]'
    engine = database_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA tcc"))
        command.upgrade(alembic_config(connection), "0009")
        connection.execute(
            text("""INSERT INTO tcc.audit
                VALUES (1, 5, 'ann', 'transaction.hold', 'transaction/g', 'why', '{}', :previous, :hash,
                        'bo', 'token', 'ipv4:1', 'ann-1')"""),
            {"previous": NO_HASH, "hash": sha256(NO_HASH + former).digest()},
        )
    engine.dispose()
    migrate(database_url)
    log = PostgresOperatorLog(OperatorPool(database_url), owner="c")
    entry = AuditEntry(operator="ann", action="a", target="t", reason="r", method="token", role="admin")
    await log.audit_append(entry)
    records = await log.audit_after(0, 10)
    await log.close()
    assert [record.entry.role for record in records] == ["", "admin"]
    assert first_break(AuditHead(), records) is None
    assert first_break(AuditHead(), [records[0], replace(records[1], entry=replace(entry, role="read"))])


@pytest.mark.parametrize(("oldest", "can_run"), [("0011", True), ("9999", False)])
def test_a_log_of_a_newer_version_is_used_if_that_allows_it(
    database_url: str, oldest: str, *, can_run: bool
) -> None:
    """As when a coordinator starts again during a rolling upgrade, or after the way back."""
    migrate(database_url)
    newer = "UPDATE tcc.alembic_version SET version_num = '9999', oldest = %s"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(newer, (oldest,))
        assert schema_is_current(database_url) is can_run
        assert examine(database_url).is_newer is can_run
        with nullcontext() if can_run else pytest.raises(LogTooNewError, match="the log is at 9999"):
            migrate(database_url)
        # Nothing was migrated.
        found = connection.execute("SELECT version_num, oldest FROM tcc.alembic_version").fetchall()
        assert found == [("9999", oldest)]


@pytest.mark.slow
def test_eight_coordinators_migrate_at_once(database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(8) as pool:
        assert pool.map(migrate, [database_url] * 8, chunksize=1) == [None] * 8
    assert schema_is_current(database_url)


def test_the_second_creator_of_the_lock_continues(database_url: str) -> None:
    """CREATE TABLE IF NOT EXISTS fails where another has created the table but not committed yet."""
    with ThreadPoolExecutor(1) as thread, psycopg.connect(database_url) as first:
        first.execute("CREATE SCHEMA tcc")
        first.execute("CREATE TABLE tcc.migration_lock (id SMALLINT PRIMARY KEY)")
        second = thread.submit(migrate, database_url)
        with psycopg.connect(database_url, autocommit=True) as watcher:
            while not watcher.execute(
                """SELECT 1 FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'"""
            ).fetchone():
                assert not second.done()
        first.commit()
        second.result()
    assert schema_is_current(database_url)


def test_a_crash_while_migrating_leaves_nothing_and_blocks_no_other(database_url: str) -> None:
    """The lock and the changes live and die with one transaction."""
    migrate(database_url)
    with psycopg.connect(database_url) as dying:
        dying.execute("SELECT id FROM tcc.migration_lock FOR UPDATE")
        dying.execute("DROP TABLE tcc.transactions")
        dying.close()
    migrate(database_url)
    assert schema_is_current(database_url)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM tcc.transactions").fetchone() == (0,)


def test_an_unreachable_database_is_reported(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.stop()
    with pytest.raises(LogUnavailable):
        migrate(own_postgres.url())
