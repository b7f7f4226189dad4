"""The database of the log, whatever is set or stored beside it. What cannot work is refused."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import psycopg
import pytest
from psycopg import sql as psql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from coordinator.core.errors import LogUnavailable
from coordinator.core.model import TransactionState
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log.diagnosis import examine
from coordinator.log.migration import migrate, schema_is_current
from coordinator.log.requirements import LogUrlError
from coordinator.log.statements import Statement
from coordinator.log.store import LogPool, PostgresLog
from tests.log.transactions import begun, cancelling, insert, parked, save, stored
from tests.support.ports import free_port

# What a database or a role may set by default, and what the log has all the same.
SETTINGS = [
    ("client_encoding", "LATIN1", "UTF8"),
    ("default_transaction_isolation", "serializable", "read committed"),
    ("default_transaction_deferrable", "on", "off"),
    ("search_path", "nowhere, pg_catalog", "tcc"),
    ("TimeZone", "Asia/Kathmandu", "UTC"),
    ("DateStyle", "SQL, DMY", "ISO, DMY"),
    ("IntervalStyle", "sql_standard", "postgres"),
    ("bytea_output", "escape", "hex"),
    ("standard_conforming_strings", "off", "on"),
    ("statement_timeout", "5s", "9s"),
    ("lock_timeout", "5s", "0"),
    ("idle_in_transaction_session_timeout", "5s", "0"),
    ("idle_session_timeout", "5s", "0"),
    ("synchronous_commit", "off", "on"),
    ("synchronous_commit", "local", "on"),
    # Stronger than on: kept.
    ("synchronous_commit", "remote_apply", "remote_apply"),
]


def alter_database(url: str, setting: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        name = psql.Identifier(db.info.dbname)
        value_sql = psql.SQL(value) if setting == "search_path" else psql.Literal(value)
        statement = psql.SQL("ALTER DATABASE {} SET {} = {}")
        db.execute(statement.format(name, psql.Identifier(setting), value_sql))


async def use(url: str) -> None:
    """Write and read a transaction with a gid outside ASCII, by every kind of statement."""
    log = PostgresLog(LogPool(url), owner="ours", name="host:1")
    try:
        await log.coordinator_heartbeat(lease_s=60)
        (tx,) = await insert(log, begun("Bestellung 7 \u2713 \\'", initiator="\u30c6\u30b9\u30c8"))
        tx = await save(log, parked(await save(log, cancelling(tx)), until=1.0))
        assert (await stored(log, tx.gid)).state is TransactionState.CANCELLING
        (claimed,) = await log.transaction_claim_due({"inventory": 1})
        assert (claimed.tx.gid, claimed.tx.initiator) == (tx.gid, "\u30c6\u30b9\u30c8")
    finally:
        await log.close()


async def session_value(url: str, setting: str) -> object:
    log = PostgresLog(LogPool(url), owner="ours", name="host:1")
    try:
        show = Statement(name="show", sql=f"SHOW {setting}", parameters=())
        return (await log._connections.execute(show, {})).rows[0][0]
    finally:
        await log.close()


@pytest.mark.parametrize(("setting", "value", "ours"), SETTINGS)
async def test_settings_of_the_database_change_nothing(
    database_url: str, setting: str, value: str, ours: str
) -> None:
    alter_database(database_url, setting, value)
    migrate(database_url)
    await use(database_url)
    assert await session_value(database_url, setting) == ours


async def test_pgclientencoding_changes_nothing(log_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    await use(log_url)
    assert examine(log_url).applied


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(postgres: EmbeddedPostgres, encoding: str) -> None:
    name = f"not_utf8_{encoding.lower()}"
    with psycopg.connect(postgres.url(), autocommit=True) as db:
        db.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'"
        )
    for refusing in (migrate, examine):
        with pytest.raises(
            LogUrlError, match=f"the database's encoding is {encoding}, but the log needs UTF8"
        ):
            refusing(postgres.url(name))
    with psycopg.connect(postgres.url(), autocommit=True) as db:
        db.execute(f"DROP DATABASE {name}")


def test_a_read_only_database_is_waited_for(database_url: str) -> None:
    alter_database(database_url, "default_transaction_read_only", "on")
    with pytest.raises(LogUnavailable, match="read-only transaction"):
        migrate(database_url)
    assert examine(database_url).read_only


# --- what others keep in the database -----------------------------------------------


def test_the_tables_of_another_program_are_left_alone(database_url: str) -> None:
    """Among them those of another Alembic, and one of each name that the log uses."""
    names = (
        "transactions",
        "coordinators",
        "participants",
        "audit",
        "audit_heads",
        "coordinator_secrets",
        "migration_lock",
    )
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(
            "CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('8f3c')"
        )
        for name in names:
            db.execute(psql.SQL("CREATE TABLE {} (id INT)").format(psql.Identifier(name)))
    migrate(database_url)
    assert schema_is_current(database_url)
    with psycopg.connect(database_url, autocommit=True) as db:
        assert db.execute("SELECT version_num FROM public.alembic_version").fetchall() == [("8f3c",)]
        for name in names:
            assert db.execute(psql.SQL("TABLE public.{}").format(psql.Identifier(name))).fetchall() == []


@pytest.mark.parametrize(
    "object_", ["TABLE tcc.audit (id INT)", "VIEW tcc.transactions AS SELECT 1", "TYPE tcc.audit AS (x INT)"]
)
def test_what_is_in_the_way_is_named(database_url: str, object_: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("CREATE SCHEMA tcc")
        db.execute(f"CREATE {object_}".encode())
    name = object_.split()[1].removeprefix("tcc.")
    with pytest.raises(LogUrlError, match=f'holds something that is not the log\'s: .*"{name}"'):
        migrate(database_url)


def test_another_programs_alembic_in_the_schema_of_the_log_is_named(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("CREATE SCHEMA tcc")
        db.execute("CREATE TABLE tcc.alembic_version (version_num TEXT)")
        db.execute("INSERT INTO tcc.alembic_version VALUES ('8f3c')")
    with pytest.raises(LogUrlError, match=r"alembic_version of another program \(revision 8f3c\)"):
        migrate(database_url)


async def test_a_log_in_the_schema_public_is_moved(database_url: str) -> None:
    """As the first versions kept it."""
    migrate(database_url)
    log = PostgresLog(LogPool(database_url), owner="ours", name="host:1")
    await insert(log, begun("old"))
    await log.close()
    with psycopg.connect(database_url) as db:
        # They are newer than the schema tcc.
        db.execute("DROP TABLE tcc.cells, tcc.outcome_positions, tcc.outcomes_awaited")
        db.execute("UPDATE tcc.alembic_version SET version_num = '0011'")
        for (name,) in db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'tcc'").fetchall():
            db.execute(psql.SQL("ALTER TABLE tcc.{} SET SCHEMA public").format(psql.Identifier(name)))
        db.execute("DROP SCHEMA tcc")
    migrate(database_url)
    log = PostgresLog(LogPool(database_url), owner="ours", name="host:1")
    assert (await stored(log, "old")).gid == "old"
    await log.close()
    with psycopg.connect(database_url) as db:
        left = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
        assert left == [("alembic_version",), ("migration_lock",)]
    # Also beside what it left behind, a second migration finds nothing to do.
    migrate(database_url)


# --- privileges ---------------------------------------------------------------------


@contextmanager
def role(url: str, name: str, *grants: str) -> Iterator[str]:
    """Create a role during the block; yield the URL with it."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(f"CREATE ROLE {name} LOGIN".encode())
        try:
            for grant in grants:
                db.execute(f"GRANT {grant} TO {name}".encode())
            yield make_url(url).set(username=name).render_as_string(hide_password=False)
        finally:
            db.execute(f"DROP OWNED BY {name}".encode())
            db.execute(f"DROP ROLE {name}".encode())


async def test_a_role_that_may_only_read_and_write_rows_is_enough_once_migrated(log_url: str) -> None:
    grants = ("USAGE ON SCHEMA tcc", "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tcc")
    with role(log_url, "only_rows", *grants) as url:
        migrate(url)
        await use(url)
        assert examine(url).applied


def test_a_role_that_may_create_only_in_the_schema_migrates(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("CREATE SCHEMA tcc")
    with role(database_url, "in_schema", "USAGE, CREATE ON SCHEMA tcc") as url:
        migrate(url)
        assert schema_is_current(database_url)


# --- poolers ------------------------------------------------------------------------

needs_pgbouncer = pytest.mark.skipif(which("pgbouncer") is None, reason="pgbouncer is not installed")


@contextmanager
def pgbouncer(url: str, home: Path, pool_mode: str) -> Iterator[str]:
    """Run a PgBouncer before the database; yield its URL."""
    server, port = conninfo_to_dict(url), free_port()
    home.joinpath("users.txt").write_text('"postgres" ""\n')
    home.joinpath("pgbouncer.ini").write_text(
        f"""[databases]
* = host={server["host"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users.txt
pool_mode = {pool_mode}
"""
    )
    for path in (home, *home.iterdir()):
        path.chmod(0o777)
    # As the user of the server, whose socket others may not use. Only root may become it, and has to.
    owner = Path(str(server["host"])).stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if not os.geteuid() else {}
    process: subprocess.Popen[bytes] = subprocess.Popen(
        ["pgbouncer", "-q", str(home / "pgbouncer.ini")],
        stderr=subprocess.PIPE,
        **identity,  # type: ignore[arg-type]
    )
    assert process.stderr is not None
    try:
        bounced = f"postgresql://postgres@127.0.0.1:{port}/{server['dbname']}"
        _until_it_listens(process, bounced)
        yield bounced
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def _until_it_listens(process: "subprocess.Popen[bytes]", url: str) -> None:
    while process.poll() is None:
        try:
            psycopg.connect(url, connect_timeout=10).close()
        except psycopg.OperationalError:
            continue
        return
    raise AssertionError(process.stderr.read() if process.stderr else "")


@needs_pgbouncer
@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
def test_a_pooler_that_shares_sessions_is_refused_and_leaks_no_setting(
    log_url: str, home: Path, pool_mode: str
) -> None:
    with pgbouncer(log_url, home, pool_mode) as url:
        for refusing in (migrate, examine):
            with pytest.raises(LogUrlError, match="set pool_mode = session"):
                refusing(url)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as another_client:
            for setting, theirs in (("enable_seqscan", "on"), ("search_path", '"$user", public')):
                row = another_client.execute(psql.SQL("SHOW {}").format(psql.SQL(setting))).fetchone()
                assert row == (theirs,)


@needs_pgbouncer
@pytest.mark.usefixtures("postgres")
async def test_a_pooler_in_session_mode_works(database_url: str, home: Path) -> None:
    with pgbouncer(database_url, home, "session") as url:
        migrate(url)
        await use(url)
