"""Connections break, servers hang and crash: nothing is guessed, lost or done twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import TypeVar

import psycopg
import pytest
from msgspec.structs import replace

from coordinator.core.errors import LogUnavailable
from coordinator.core.model import Transaction, TransactionState
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log import statements
from coordinator.log.connections import Connections
from coordinator.log.migration import migrate
from coordinator.log.statements import GET, Statement
from coordinator.log.store import LogPool, PostgresLog
from coordinator.ports.log import ListFilter
from proof.proxy import Fault, Proxy, proxied
from tests.log.transactions import (
    SEARCH_PATH,
    begun,
    cancelling,
    confirming,
    each_branch,
    ended,
    insert,
    landed,
    parked,
    save,
    sql,
    stored,
)
from tests.support.log_sessions import session

T = TypeVar("T")

LOSSES = pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.HANG])


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres, log_url: str) -> AsyncIterator[Proxy]:
    async with proxied(log_url, postgres._socket_dir) as proxy:
        yield proxy


@pytest.fixture
async def log(proxy: Proxy) -> AsyncIterator[PostgresLog]:
    """A log behind the proxy, which has used each of its statements once and so prepared them."""
    log = PostgresLog(LogPool(proxy.where, connections=1), owner="ours", name="host:1")
    await log.coordinator_heartbeat(lease_s=60)
    (tx,) = await insert(log, begun("warm"))
    tx = await save(log, parked(await save(log, confirming(tx))))
    await log.transaction_claim_due({"": 1})
    await log.transaction_adopt(1)
    taken = await log.transaction_take("warm", version=tx.version)
    assert taken is not None
    await save(log, ended(taken.tx))
    await log.transaction_release()
    yield log
    await log.close()


@pytest.fixture
async def other(log_url: str) -> AsyncIterator[PostgresLog]:
    other = PostgresLog(LogPool(log_url), owner="other", name="host:2")
    await other.coordinator_heartbeat(lease_s=60)
    yield other
    await other.close()


async def fail(log: PostgresLog, proxy: Proxy, fault: Fault, call: Callable[[], Awaitable[object]]) -> None:
    """Make the call while the fault is active, with a short time limit for this call alone."""
    connections = log._connections
    patience_s = connections._statement_timeout_s
    if fault in (Fault.HANG, Fault.DELAY):
        connections._statement_timeout_s = 1.0
        if connections._alarm is not None:  # it was set for the usual limit
            connections._alarm.cancel()
            connections._alarm = None
    proxy.arm(fault)
    with pytest.raises(LogUnavailable):
        await call()
    connections._statement_timeout_s = patience_s
    await proxy.struck.wait()


async def struck(log: PostgresLog, proxy: Proxy, fault: Fault, call: Callable[[], Awaitable[T]]) -> T:
    """The response of a call whose first attempt hits the fault."""
    await fail(log, proxy, fault, call)
    return await call()


@LOSSES
async def test_an_insert_is_repeated_safely(
    log: PostgresLog, other: PostgresLog, proxy: Proxy, fault: Fault
) -> None:
    batch = [begun("a"), begun("b")]
    await fail(log, proxy, fault, lambda: log.transaction_begin(batch))
    assert len(await other.transaction_get(["a", "b"])) == (0 if fault is Fault.LOSE_REQUEST else 2)
    assert await log.transaction_begin(batch) == [None, None]
    assert await stored(log, "a") == landed(batch[0])


@LOSSES
async def test_every_kind_of_save_is_repeated_safely(
    log: PostgresLog, other: PostgresLog, proxy: Proxy, fault: Fault
) -> None:
    async def write(*changed: Transaction) -> list[Transaction]:
        # Statements are prepared per kind of parameters; the lost reply must not be the preparation's.
        absent = [replace(tx, gid=f"absent-{tx.gid}") for tx in changed]
        assert await log.transaction_save(absent) == [None] * len(changed)
        await fail(log, proxy, fault, lambda: log.transaction_save(changed))
        done = 0 if fault is Fault.LOSE_REQUEST else 1
        for tx in changed:
            assert (await stored(other, tx.gid)).version == tx.version + done
        assert await log.transaction_save(changed) == [True] * len(changed)
        for tx in changed:
            record = (await log.transaction_get([tx.gid]))[tx.gid]
            assert record.tx == landed(tx)
        return [landed(tx) for tx in changed]

    one, two = await insert(log, begun("a"), begun("b", interactive=True))
    two = replace_branches(two, "inventory", "coupon", "order")
    one, two = await write(confirming(one), two)
    one, two = await write(ended(one), cancelling(each_branch(two, result=b"r")))
    (two,) = await write(parked(two, until=2_000_000_000.123456))
    claimed = await log.transaction_take("b", version=two.version)
    assert claimed is not None
    await write(ended(claimed.tx))


def replace_branches(tx: Transaction, *participants: str) -> Transaction:
    return replace(tx, branches=begun("x", *participants).branches)


@LOSSES
async def test_a_repeat_never_hides_that_another_coordinator_won(
    log: PostgresLog, other: PostgresLog, proxy: Proxy, fault: Fault
) -> None:
    (tx,) = await insert(log, begun("a"))
    await fail(log, proxy, fault, lambda: log.transaction_save([confirming(tx)]))
    version = 1 if fault is Fault.LOSE_REQUEST else 2
    taken = await other.transaction_take("a", version=version)
    assert taken is not None
    assert await log.transaction_save([confirming(tx)]) == [False]
    assert await log.transaction_save([cancelling(tx)]) == [False]


@LOSSES
async def test_a_takeover_is_repeated_safely(
    log: PostgresLog, other: PostgresLog, proxy: Proxy, fault: Fault
) -> None:
    await insert(other, begun("a"))
    taken = await struck(log, proxy, fault, lambda: log.transaction_take("a", version=1))
    assert taken is not None
    assert (taken.owner, taken.tx.version) == ("ours", 2)
    await save(log, confirming(taken.tx))


@LOSSES
async def test_what_a_lost_claim_took_is_handed_out_by_the_next(
    log: PostgresLog, other: PostgresLog, proxy: Proxy, fault: Fault
) -> None:
    (tx,) = await insert(other, begun("a"))
    await save(other, parked(await save(other, confirming(tx))))
    await fail(log, proxy, fault, lambda: log.transaction_claim_due({"inventory": 9}))
    found = await log.transaction_claim_due({"inventory": 9})
    assert [(record.owner, record.tx.gid, record.tx.version) for record in found] == [("ours", "a", 4)]
    assert await log.transaction_claim_due({"inventory": 9}) == [], "handed out once"


async def test_a_claim_that_takes_effect_after_its_timeout_is_found(
    log: PostgresLog, other: PostgresLog, proxy: Proxy
) -> None:
    """The server may execute a statement only after its sender has gone and has read the result."""
    await insert(other, begun("a"))
    await other.coordinator_leave()
    await fail(log, proxy, Fault.DELAY, lambda: log.transaction_take("a", version=1))
    assert await log._find_lost_claims() == []
    assert await log._recover_lost_claims() == []
    await proxy.deliver()
    assert [record.tx.gid for record in await log.transaction_adopt(9)] == ["a"]
    assert await log.transaction_adopt(9) == []


@LOSSES
async def test_what_a_lost_adoption_took_is_handed_out_by_the_next(
    log: PostgresLog, other: PostgresLog, proxy: Proxy, fault: Fault
) -> None:
    await insert(other, begun("a"))
    await other.coordinator_leave()
    found = await struck(log, proxy, fault, lambda: log.transaction_adopt(9))
    assert [(record.owner, record.tx.gid) for record in found] == [("ours", "a")]
    assert await log.transaction_adopt(9) == []


async def test_what_a_cancelled_call_took_is_handed_out_by_the_next(
    log: PostgresLog, other: PostgresLog, proxy: Proxy
) -> None:
    """The caller of a request may cancel at any moment."""
    await insert(other, begun("a"))
    log._connections._statement_timeout_s = 1.0
    proxy.arm(Fault.HANG)
    call = asyncio.create_task(log.transaction_take("a", version=1))
    await proxy.struck.wait()
    call.cancel()
    with pytest.raises((asyncio.CancelledError, LogUnavailable)):
        await call
    log._connections._statement_timeout_s = 10.0
    assert [record.tx.gid for record in await log.transaction_adopt(9)] == ["a"]


async def test_a_backend_that_is_terminated_while_it_writes(
    log_url: str, other: PostgresLog, log: PostgresLog
) -> None:
    (tx,) = await insert(log, begun("a"))
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("SELECT 1 FROM transactions WHERE gid = 'a' FOR UPDATE")
        writing = asyncio.create_task(log.transaction_save([confirming(tx)]))
        await until_blocked(log_url)
        await sql(
            log_url,
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'""",
        )
        with pytest.raises(LogUnavailable):
            await writing
    assert (await stored(other, "a")).state is TransactionState.TRYING
    assert await log.transaction_save([confirming(tx)]) == [True]


async def test_a_deadlock_is_over_when_it_is_reported(log_url: str) -> None:
    """A rival that locks in another order wins the deadlock; the write is repeated."""
    log = PostgresLog(LogPool(log_url), owner="ours", name="host:1")
    one, two = await insert(log, begun("a"), begun("b"))
    # PostgreSQL checks once, after this time; by then the rival has to block it.
    async with session(log._connections) as connection:
        await connection.execute("SET deadlock_timeout = '3s'")
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as rival:
        await rival.execute("SET deadlock_timeout = '60s'")
        await rival.execute("SELECT 1 FROM transactions WHERE gid = 'b' FOR UPDATE")
        writing = asyncio.create_task(log.transaction_save([confirming(one), confirming(two)]))
        await until_blocked(log_url)
        await rival.execute("SELECT 1 FROM transactions WHERE gid = 'a' FOR UPDATE")
        assert not writing.done()
    assert await writing == [True, True]
    await log.close()


async def test_a_server_that_accepts_but_does_not_respond_is_unavailable() -> None:
    """Connecting has its own time limit."""
    silent = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections(
        f"postgresql://postgres@127.0.0.1:{port}/x?connect_timeout=1", most=1, statement_timeout_s=0.2
    )
    with pytest.raises(LogUnavailable):
        await connections.execute(GET, {"gids": []})
    silent.set()
    server.close()


async def test_one_timer_bounds_the_time_of_each_statement(postgres: EmbeddedPostgres, log_url: str) -> None:
    """It was set for a statement that was answered, and the one that hangs began later."""
    async with proxied(log_url, postgres._socket_dir) as proxy:
        connections = Connections(proxy.where, most=1, statement_timeout_s=1.0)
        await connections.execute(GET, {"gids": []})
        proxy.arm(Fault.HANG)
        with pytest.raises(LogUnavailable):
            await connections.execute(GET, {"gids": []})
        assert not connections._began
        await connections.close()


async def test_a_crash_under_load_loses_nothing_that_was_acknowledged(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.create_database("log")
    url = own_postgres.url("log")
    migrate(url)
    log = PostgresLog(LogPool(url), owner="ours", name="host:1")
    numbers = count()
    inserted: list[Transaction] = []
    decided: list[Transaction] = []
    busy, down, up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def until_known(write: Callable[[], Awaitable[list[T]]]) -> list[T]:
        while True:
            try:
                return await write()
            except LogUnavailable:
                down.set()
                await up.wait()

    async def drive() -> None:
        while not (up.is_set() and len(decided) > 200):
            batch = [begun(f"g{next(numbers)}") for _ in range(5)]
            assert await until_known(lambda b=batch: log.transaction_begin(b)) == [None] * 5  # type: ignore[misc] # default binds the loop's
            inserted.extend(batch)
            saves = [confirming(landed(tx)) for tx in batch]
            assert await until_known(lambda s=saves: log.transaction_save(s)) == [True] * 5  # type: ignore[misc] # the same
            decided.extend(landed(tx) for tx in saves)
            if len(decided) > 50:
                busy.set()

    async def crash() -> None:
        await busy.wait()
        await asyncio.to_thread(own_postgres.stop, "immediate")
        await down.wait()
        await asyncio.to_thread(own_postgres.start)
        up.set()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(drive())
        tasks.create_task(crash())
    records = await log.transaction_get([tx.gid for tx in inserted])
    assert {gid: record.tx for gid, record in records.items()} == {tx.gid: tx for tx in decided}
    assert {record.owner for record in records.values()} == {"ours"}
    await log.close()


async def test_a_heartbeat_never_waits_for_the_other_statements(log_url: str) -> None:
    log = PostgresLog(LogPool(log_url, connections=1), owner="ours", name="host:1")
    (tx,) = await insert(log, begun("a"))
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("SELECT 1 FROM transactions WHERE gid = 'a' FOR UPDATE")
        writing = asyncio.create_task(log.transaction_save([confirming(tx)]))
        await until_blocked(log_url)
        await log.coordinator_heartbeat(lease_s=1)
        assert not writing.done()
    assert await writing == [True]
    await log.close()


async def test_a_write_never_waits_for_slow_lists(log_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = PostgresLog(LogPool(log_url, connections=1), owner="ours", name="host:1")
    (tx,) = await insert(log, begun("a"))
    list_statement = statements.list_statement

    def slow_list(conditions: frozenset[str]) -> Statement:
        page = list_statement(conditions)
        return replace(page, sql=page.sql.replace("WHERE", "WHERE pg_advisory_xact_lock(1) IS NOT NULL AND"))

    monkeypatch.setattr(statements, "list_statement", slow_list)
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("SELECT pg_advisory_xact_lock(1)")
        lists = [
            asyncio.create_task(log.transaction_list(ListFilter(participant="coupon"), after=None, limit=1))
            for _ in range(2)
        ]
        await until_blocked(log_url)
        await save(log, confirming(tx))
        await insert(log, begun("b"))
        assert not any(task.done() for task in lists)
    assert [len(page) for page, _ in await asyncio.gather(*lists)] == [1, 1]
    await log.close()


async def test_reads_leave_connections_to_writes(log_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = PostgresLog(LogPool(log_url, connections=2), owner="ours", name="host:1")
    (tx,) = await insert(log, begun("a"))
    get = statements.GET
    slow = replace(get, sql=get.sql.replace("WHERE", "WHERE pg_advisory_xact_lock(1) IS NOT NULL AND"))
    monkeypatch.setattr(statements, "GET", slow)
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("SELECT pg_advisory_xact_lock(1)")
        reads = [asyncio.create_task(log.transaction_get(["a"])) for _ in range(8)]
        await until_blocked(log_url)
        async with asyncio.timeout(8):  # before the reads are given up
            await save(log, confirming(tx))
        assert not any(task.done() for task in reads)
    assert [set(found) for found in await asyncio.gather(*reads)] == [{"a"}] * 8
    await log.close()


async def until_blocked(url: str) -> None:
    """Wait until a statement in this database waits for a lock."""
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True, options=SEARCH_PATH) as watcher,
        asyncio.timeout(60),
    ):
        while True:
            cursor = await watcher.execute(
                """SELECT 1 FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'"""
            )
            if await cursor.fetchone():
                return
