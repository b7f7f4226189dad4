"""The primary of the log is replaced by its standby: nothing is lost, and no former primary is used."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coordinator.core.errors import LogUnavailable
from coordinator.log import migration
from coordinator.log.diagnosis import examine
from coordinator.log.migration import migrate
from coordinator.log.requirements import check_requirements
from coordinator.log.servers import ServerRefusedError, servers
from coordinator.log.store import LogPool, PostgresLog
from coordinator.process.checks import CheckStatus
from coordinator.process.log_checks import replication
from proof.faults.replicated_postgres import ReplicatedPostgres, replicated
from tests.log.transactions import begun, sql

pytestmark = pytest.mark.slow

DATABASE = "log"
GIDS = "SELECT gid FROM tcc.transactions ORDER BY gid"


@pytest.fixture
def pair(home: Path) -> Iterator[ReplicatedPostgres]:
    with replicated(home) as pair:
        pair.primary.create_database(DATABASE)
        migrate(pair.url(DATABASE))
        yield pair


@pytest.fixture
async def log(pair: ReplicatedPostgres) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(LogPool(pair.url(DATABASE), statement_timeout_s=2), owner="ours", name="host:1")
    yield log
    await log.close()


async def write(log: PostgresLog, gid: str) -> None:
    """Begin a transaction, as the log writer does: again until the outcome is known."""
    async with asyncio.timeout(60):
        while True:
            try:
                assert await log.transaction_begin([begun(gid)]) == [None]
                return
            except LogUnavailable:
                await asyncio.sleep(0)


async def gids(log_url: str) -> list[str]:
    return [gid for (gid,) in await sql(log_url, GIDS)]


async def test_writes_go_on_at_the_standby_after_the_primary_was_killed(
    pair: ReplicatedPostgres, log: PostgresLog
) -> None:
    await write(log, "before")
    pair.primary.stop("immediate")
    pair.promote()
    await write(log, "after")
    assert await gids(pair.standby.url(DATABASE)) == ["after", "before"]


async def test_a_former_primary_that_comes_back_is_never_used_again(
    pair: ReplicatedPostgres, log: PostgresLog
) -> None:
    await write(log, "before")
    pair.primary.stop("immediate")
    pair.promote()
    await write(log, "after")
    pair.primary.start()
    log._connections._close_idle()
    await write(log, "later")
    assert await gids(pair.standby.url(DATABASE)) == ["after", "before", "later"]
    assert await gids(pair.primary.url(DATABASE)) == ["before"]
    with pytest.raises(ServerRefusedError, match="more than one server accepts writes"):
        check_requirements(pair.url(DATABASE))


async def test_writes_go_on_at_the_standby_while_the_primary_hangs(
    pair: ReplicatedPostgres, log: PostgresLog
) -> None:
    await write(log, "before")
    pair.freeze_primary()
    late = asyncio.create_task(write(log, "late"))
    await asyncio.to_thread(pair.promote)
    await late
    pair.resume_primary()
    await write(log, "after")
    assert await gids(pair.standby.url(DATABASE)) == ["after", "before", "late"]


async def test_a_statement_that_hangs_is_repeated_at_the_promoted_server(pair: ReplicatedPostgres) -> None:
    """Long before its own time limit."""
    log = PostgresLog(LogPool(pair.url(DATABASE), statement_timeout_s=3_600), owner="ours", name="host:1")
    await write(log, "before")
    pair.freeze_primary()
    late = asyncio.create_task(write(log, "late"))
    await asyncio.sleep(0)
    await asyncio.to_thread(pair.promote)
    await late
    assert await gids(pair.standby.url(DATABASE)) == ["before", "late"]
    await log.close()


@pytest.mark.parametrize("is_sent_before", [True, False])
async def test_what_a_former_primary_answers_after_a_failover_counts_for_nothing(
    pair: ReplicatedPostgres, *, is_sent_before: bool
) -> None:
    """It has no synchronous standby here, so it does answer. The heartbeat notices the failover."""
    pair.make_asynchronous()
    log = PostgresLog(LogPool(pair.url(DATABASE), statement_timeout_s=60), owner="ours", name="host:1")
    await write(log, "before")
    pair.freeze_primary()
    late = asyncio.create_task(log.transaction_begin([begun("late")])) if is_sent_before else None
    await asyncio.to_thread(pair.promote)
    await log.coordinator_heartbeat(lease_s=60)
    pair.resume_primary()
    if late is not None:
        with pytest.raises(LogUnavailable):
            await late
    await write(log, "late")
    assert await gids(pair.standby.url(DATABASE)) == ["before", "late"]
    await log.close()


async def test_a_commit_without_its_standby_is_unavailable_until_it_returns(
    pair: ReplicatedPostgres, log: PostgresLog
) -> None:
    pair.standby.stop("immediate")
    with pytest.raises(LogUnavailable):
        await log.transaction_begin([begun("waiting")])
    pair.standby.start()
    await write(log, "waiting")
    assert await gids(pair.url(DATABASE)) == ["waiting"]


def test_a_migration_without_its_standby_names_what_it_waits_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "COMMIT_TIMEOUT_S", 1)
    with replicated(home) as pair:
        pair.primary.create_database(DATABASE)
        pair.standby.stop("immediate")
        with pytest.raises(LogUnavailable, match="did not answer the migration's COMMIT for 1 s: if synchro"):
            migrate(pair.url(DATABASE))


def test_the_doctor_reports_what_a_failover_would_lose(pair: ReplicatedPostgres) -> None:
    def found() -> dict[str, CheckStatus]:
        return {result.check: result.status for result in replication(examine(pair.url(DATABASE)))}

    assert found() == {"standbys": CheckStatus.OK, "replication": CheckStatus.OK}
    pair.make_asynchronous()
    assert found()["standbys"] is CheckStatus.WARNING
    pair.standby.stop("immediate")
    pair.require_standby()
    assert found() == {"standbys": CheckStatus.PROBLEM}


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("postgresql://u@a:1,b:2/d", ["a:1", "b:2"]),
        ("postgresql+psycopg://u@a,b:2/d", ["a:5432", "b:2"]),
        ("postgresql:///d?host=a,b&port=3", ["a:3", "b:3"]),
        ("postgresql:///d?host=%2Frun%2Fa&target_session_attrs=primary", ["/run/a:5432"]),
        ("postgresql:///d", ["localhost:5432"]),
    ],
)
def test_each_spelling_of_several_servers_is_understood(url: str, names: list[str]) -> None:
    assert [server.name for server in servers(url)] == names
    assert all("target_session_attrs" not in server.conninfo for server in servers(url))
