"""A search that takes the log too long is reported as such, and affects nothing else."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from msgspec.structs import replace

from coordinator.log import statements
from coordinator.log.statements import Statement
from tcc.admin.v1 import admin_pb2 as apb
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.test_outcome_unknown import until_blocked
from tests.log.transactions import SEARCH_PATH
from tests.support.errors import refused
from tests.support.worker import Running

from .conftest import Stub, execute, operator_context


@pytest.fixture
async def busy_log(tcc: Running, log_url: str) -> AsyncIterator[Running]:
    """A coordinator whose log answers no search, with a time limit of two seconds for one."""
    tcc.worker.log._searches._statement_timeout_s = 2.0
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("LOCK TABLE transactions IN ACCESS EXCLUSIVE MODE")
        yield tcc


async def test_a_slow_filter_is_refused_as_search_too_long(busy_log: Running, admin: Stub) -> None:
    async with refused("DEADLINE_EXCEEDED", "SEARCH_TOO_LONG"):
        await admin.SearchTransactions(apb.SearchTransactionsRequest(filter="initiator=absent"))
    assert busy_log.engine.writer.available


async def test_searches_of_operators_delay_no_list_of_an_initiator(
    tcc: Running, admin: Stub, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tcc.stub.ExecuteTransaction(execute("g"))
    list_statement = statements.list_statement

    def slow_search(conditions: frozenset[str], *, keys_only: bool = False) -> Statement:
        page = list_statement(conditions, keys_only=keys_only)
        waiting = page.sql.replace("WHERE", "WHERE pg_advisory_xact_lock(1) IS NOT NULL AND")
        return replace(page, sql=waiting) if "initiator" in conditions else page

    monkeypatch.setattr(statements, "list_statement", slow_search)
    async with await psycopg.AsyncConnection.connect(log_url) as blocker:
        await blocker.execute("SELECT pg_advisory_xact_lock(1)")
        slow = apb.SearchTransactionsRequest(filter="initiator=absent")
        searches = [asyncio.ensure_future(admin.SearchTransactions(slow)) for _ in range(3)]
        await until_blocked(log_url)
        listed = await tcc.stub.ListTransactions(pb.ListTransactionsRequest(), timeout=5)
        assert [one.gid for one in listed.transactions] == ["g"]
        assert not any(search.done() for search in searches)
    await asyncio.gather(*searches)


async def test_a_bulk_action_requires_a_confirmation(busy_log: Running, admin: Stub) -> None:
    order = apb.RunBulkActionRequest(
        filter="live", action=apb.BULK_ACTION_RETRY, operator_context=operator_context()
    )
    async with refused("DEADLINE_EXCEEDED", "SEARCH_TOO_LONG"):
        async for _ in admin.RunBulkAction(order):
            pass
