"""The operators' side of the log: lost responses, and plans that never read ended transactions."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql

from coordinator.core.audit import AuditEntry, AuditHead, first_break
from coordinator.core.errors import LogUnavailable, SearchTooLong
from coordinator.core.model import TransactionState
from coordinator.log.failures import StatementTooLong
from coordinator.log.operator_statements import (
    BACKLOG_CAPPED,
    BACKLOG_COUNTS,
    BACKLOG_OLDEST,
    COORDINATOR_OWNED,
)
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.log.statements import NEXT_WAITED_FOR, Statement, list_statement
from coordinator.log.store import LogPool, PostgresLog
from coordinator.ports.operator_log import AuditFilter, CoordinatorReport, ParticipantRecord
from tests.log.test_outcome_unknown import until_blocked
from tests.log.transactions import SEARCH_PATH
from tests.support.log_sessions import session
from tests.support.plans import generic_plan

from .transactions import begun, confirming, insert, parked, save

ENTRY = AuditEntry(operator="ann", action="participant.pause", target="participant/p", reason="r")


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[PostgresOperatorLog]:
    log = PostgresOperatorLog(OperatorPool(log_url), owner="ours")
    yield log
    await log.close()


@pytest.mark.slow
async def test_a_slow_search_of_records_is_refused_as_search_too_long(log_url: str) -> None:
    log = PostgresOperatorLog(OperatorPool(log_url, statement_timeout_s=2.0), owner="ours")
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("LOCK TABLE audit IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SearchTooLong):
            await log.audit_list(AuditFilter(operator="ann"), before=None, limit=9)
        with pytest.raises(StatementTooLong):
            await log.audit_after(0, 9)
    assert await log.audit_list(AuditFilter(operator="ann"), before=None, limit=9) == []
    await log.close()


async def test_slow_searches_delay_no_command_and_no_report(log: PostgresOperatorLog, log_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("LOCK TABLE audit IN ACCESS EXCLUSIVE MODE")
        searches = [
            asyncio.create_task(log.audit_list(AuditFilter(operator="ann"), before=None, limit=9))
            for _ in range(3)
        ]
        await until_blocked(log_url)
        async with asyncio.timeout(8):  # before the searches are given up
            await log.coordinator_report(CoordinatorReport())
        assert not any(task.done() for task in searches)
    assert await asyncio.gather(*searches) == [[], [], []]


async def test_an_action_whose_answer_was_lost_is_found_done(
    log: PostgresOperatorLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = log._connections.execute_all

    async def lose_answer(steps: Sequence[tuple[Statement, Mapping[str, Any]]]) -> None:
        assert await really(steps) is None
        raise LogUnavailable("cut while it committed")

    monkeypatch.setattr(log._connections, "execute_all", lose_answer)
    record = await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)
    assert await log.audit_after(0, 10) == [record]
    assert (await log.participant_list())["p"].version == 1


async def test_an_action_that_never_arrived_is_not_reported_as_done(
    log: PostgresOperatorLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_request(_steps: object) -> None:
        raise LogUnavailable("cut before it arrived")

    with monkeypatch.context() as patch:
        patch.setattr(log._connections, "execute_all", lose_request)
        with pytest.raises(LogUnavailable):
            await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)
    assert await log.audit_after(0, 10) == []
    assert await log.participant_list() == {}
    await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)


async def test_a_record_without_an_action_is_a_link_of_the_chain(log: PostgresOperatorLog) -> None:
    first = await log.audit_append(ENTRY)
    await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)
    third = await log.audit_append(ENTRY)
    records = await log.audit_after(0, 10)
    assert (records[0], records[2]) == (first, third)
    assert first_break(AuditHead(), records) is None


async def test_transactions_are_read_in_brief(log: PostgresOperatorLog, log_url: str) -> None:
    store = PostgresLog(LogPool(log_url), owner="ours", name="here")
    known, _ = await insert(store, begun("a"), begun("b"))
    await store.close()
    read = await log.transaction_brief(["a", "unknown"])
    without_payloads = [replace(branch, spec=replace(branch.spec, payload=b"")) for branch in known.branches]
    assert read.keys() == {"a"}
    assert list(read["a"].branches) == without_payloads
    assert await log.transaction_brief([]) == {}


@pytest.mark.parametrize(
    "statement",
    [
        NEXT_WAITED_FOR,
        BACKLOG_COUNTS,
        BACKLOG_CAPPED,
        BACKLOG_OLDEST,
        COORDINATOR_OWNED,
        list_statement(frozenset({"unfinished", "stuck"})),
        list_statement(frozenset({"unfinished", "held", "participants", "created_before"})),
    ],
    ids=lambda statement: statement.name,
)
@pytest.mark.not_on_citus("it explains no generic plans")
async def test_ended_transactions_are_not_read_to_find_unfinished_ones(
    log: PostgresOperatorLog, statement: Statement
) -> None:
    await log.audit_head()  # so that there is a connection with the log's own settings
    plan = await generic_plan(log._connections, statement)
    assert "Seq Scan on transactions" not in plan, plan
    scans = set(re.findall(r"Index.*Scan.* (?:on|using) (transactions_\w+)", plan))
    assert scans <= {
        *("transactions_owned", "transactions_parked", "transactions_parked_created", "transactions_stuck"),
    }, plan


async def test_what_is_parked_while_figures_are_read_is_in_them(
    log: PostgresOperatorLog, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction had waited for that participant before."""
    store = PostgresLog(LogPool(log_url), owner="ours", name="here")
    (driven,) = await insert(store, begun("g"))
    really = log._searches.execute

    async def park_before_counting(statement: Statement, values: Mapping[str, Any]) -> Any:
        if statement is BACKLOG_COUNTS:
            await save(store, parked(confirming(driven), on="inventory"))
        return await really(statement, values)

    monkeypatch.setattr(log._searches, "execute", park_before_counting)
    figures = await log.backlog()
    await store.close()
    assert figures.by_state == {TransactionState.CONFIRMING: 1}
    assert figures.waiting_on == {"inventory": 1}


# Parked ones, waiting for two participants or for none, some of them stuck; and held ones.
MANY = """
    INSERT INTO transactions (
        gid, version, state, owner, interactive, initiator, labels, fingerprint, branches, payloads,
        participants, stuck, waiting_on, next_attempt_at, created_at, expires_at, decided_at
    )
    SELECT 'order-' || n, 3, 1 + n % 2, '', false, 'shop', '{}', '', '', '', ARRAY['stock'], n % 4 = 0,
        (ARRAY['', 'coupon', 'inventory', 'inventory'])[1 + n % 4],
        CASE WHEN n % 8 = 4 THEN TIMESTAMPTZ '9999-12-31' ELSE now() + n * INTERVAL '1 second' END,
        now() - n * INTERVAL '1 second', now(), now()
    FROM generate_series(1, 4000) AS n
"""
BOUND = 100
FIGURES = [NEXT_WAITED_FOR, BACKLOG_COUNTS, BACKLOG_CAPPED, BACKLOG_OLDEST]


@pytest.fixture
async def many(log_url: str) -> AsyncIterator[PostgresOperatorLog]:
    """A log in which thousands wait, and whose counts are capped at a hundred."""
    with psycopg.connect(log_url, autocommit=True, options=SEARCH_PATH) as connection:
        connection.execute(MANY)
    log = PostgresOperatorLog(OperatorPool(log_url), owner="ours", count_max=BOUND)
    yield log
    await log.close()


async def test_counts_are_capped(many: PostgresOperatorLog) -> None:
    figures = await many.backlog()
    assert figures.waiting_on == {"coupon": BOUND, "inventory": BOUND}
    assert (figures.parked, figures.stuck, figures.held) == (3 * BOUND, BOUND, BOUND)
    assert sum(figures.by_state.values()) == 3 * BOUND
    assert (figures.capped, figures.count_max) == (True, BOUND)
    assert figures.oldest_gid == "order-4000"


async def test_counts_below_the_cap_are_exact(log_url: str, many: PostgresOperatorLog) -> None:
    exact = PostgresOperatorLog(OperatorPool(log_url), owner="ours", count_max=2_001)
    figures = await exact.backlog()
    await exact.close()
    assert figures.waiting_on == {"coupon": 1_000, "inventory": 2_000}
    assert (figures.parked, figures.stuck, figures.held) == (4_000, 1_000, 500)
    assert figures.by_state == {TransactionState(1): 2_000, TransactionState(2): 2_000}
    assert not figures.capped


@pytest.mark.parametrize("statement", FIGURES, ids=lambda statement: statement.name)
@pytest.mark.not_on_citus("it explains no generic plans")
async def test_counts_read_no_more_rows_than_they_count(
    many: PostgresOperatorLog, statement: Statement
) -> None:
    await many.audit_head()
    values = {"most": BOUND, "after": "coupon"}
    given = sql.SQL(", ").join(map(sql.Literal, statement.bind(values)))
    execute = sql.SQL("EXECUTE figures ({})" if statement.parameters else "EXECUTE figures").format(given)
    async with session(many._connections) as connection:
        # Planned without knowing its parameters, as all statements of the log are.
        await connection.execute(f"PREPARE figures AS {statement.sql}", prepare=False)
        cursor = await connection.execute(
            sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) {}").format(execute), prepare=False
        )
        ((found,),) = await cursor.fetchall()
    # And one row for each of the three awaited participants, to find the next.
    assert sum(_rows_read(found[0]["Plan"])) <= 3 * BOUND + 3, found


def _rows_read(plan: Mapping[str, Any]) -> Iterator[int]:
    """The number of rows that each scan of the table has read."""
    if plan.get("Relation Name") == "transactions":
        removed = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        yield round((plan["Actual Rows"] + removed) * plan["Actual Loops"])
    for part in plan.get("Plans", ()):
        yield from _rows_read(part)
