"""A search that takes the log too long is reported as such, and affects nothing else."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from tcc.admin.v1 import admin_pb2 as apb
from tests.log.transactions import SEARCH_PATH
from tests.support.errors import refused
from tests.support.worker import Running

from .conftest import Stub, operator_context


@pytest.fixture
async def busy_log(tcc: Running, log_url: str) -> AsyncIterator[Running]:
    """A coordinator whose log answers no search, with a time limit of two seconds for one."""
    tcc.worker.log._lists._statement_timeout_s = 2.0
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as blocker:
        await blocker.execute("LOCK TABLE transactions IN ACCESS EXCLUSIVE MODE")
        yield tcc


async def test_a_slow_filter_is_refused_as_search_too_long(busy_log: Running, admin: Stub) -> None:
    async with refused("DEADLINE_EXCEEDED", "SEARCH_TOO_LONG"):
        await admin.SearchTransactions(apb.SearchTransactionsRequest(filter="initiator=absent"))
    assert busy_log.engine.writer.available


async def test_a_bulk_action_requires_a_confirmation(busy_log: Running, admin: Stub) -> None:
    order = apb.RunBulkActionRequest(
        filter="live", action=apb.BULK_ACTION_RETRY, operator_context=operator_context()
    )
    async with refused("DEADLINE_EXCEEDED", "SEARCH_TOO_LONG"):
        async for _ in admin.RunBulkAction(order):
            pass
