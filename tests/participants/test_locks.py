"""Named locks through gRPC, over PostgreSQL and SQLite."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from participants.locks import store, waiters
from participants.locks.fencing import check_token, metadata as fencing_metadata
from participants.locks.metrics import LockMetrics
from participants.locks.service import locks
from participants.serving import create_schema
from tcc import Rejected
from tcc.participant import work
from tests.support.processes import TIMEOUT_S

from .conftest import CANCEL, CONFIRM, TRY, Caller, code_or_reason

LONG_MS = 600_000
QUEUE = "SELECT name, gid FROM lock_request ORDER BY name, token"


@pytest.fixture(params=["postgresql", "sqlite"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    is_sqlite = request.param == "sqlite"
    url = (
        f"sqlite+aiosqlite:///{tmp_path / 'locks'}" if is_sqlite else request.getfixturevalue("database_url")
    )
    engine = create_async_engine(url, pool_size=8, max_overflow=0)
    for metadata in (store.metadata, fencing_metadata):
        await create_schema(engine, metadata)
    yield engine
    await engine.dispose()


@pytest.fixture
async def caller(serve: Any, database: AsyncEngine) -> Caller:
    return await serve(locks(database), "acquire")


def wanted(*keys: str, mode: str = "exclusive", wait_ms: int = LONG_MS) -> dict[str, Any]:
    return {"keys": keys, "mode": mode, "wait_ms": wait_ms}


class Transactions:
    """Trys that may wait, by gid, and the order in which they were answered."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._requests: dict[str, dict[str, Any]] = {}
        self._trying: dict[str, asyncio.Task[str]] = {}
        self.answered: list[str] = []

    async def start(self, gid: str, *keys: str, **fields: Any) -> None:
        """Send a Try; return when it is in the queues."""
        self._requests[gid] = wanted(*keys, **fields)
        self._trying[gid] = asyncio.create_task(self._try(gid))
        async with asyncio.timeout(60):
            while gid not in self.answered and not await self._caller.rows(
                f"SELECT 1 FROM lock_request WHERE gid = '{gid}'"
            ):
                pass

    async def _try(self, gid: str) -> str:
        outcome = await self._caller.one(TRY, gid, **self._requests[gid])
        self.answered.append(gid)
        return outcome

    async def outcome(self, gid: str) -> str:
        return await asyncio.wait_for(asyncio.shield(self._trying[gid]), 60)

    async def end(self, gid: str, operation: int = CONFIRM) -> None:
        assert await self._caller.one(operation, gid, **self._requests[gid]) == "SUCCEEDED"


@pytest.fixture
def transactions(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> Transactions:
    """None waits in vain, however slow the machine is."""
    monkeypatch.setattr(work, "POSTPONED_MAX_S", TIMEOUT_S)
    return Transactions(caller)


async def tokens(caller: Caller, gid: str, *keys: str) -> dict[str, int]:
    [outcome] = await caller.execute([(TRY, gid, wanted(*keys))])
    assert code_or_reason(outcome) == "SUCCEEDED"
    return json.loads(outcome.result)["tokens"]


@pytest.mark.parametrize("operation", [CONFIRM, CANCEL])
async def test_a_lock_is_held_until_its_transaction_ends(caller: Caller, operation: int) -> None:
    assert await tokens(caller, "g1", "a", "b") == {"a": 1, "b": 1}
    [refused] = await caller.execute([(TRY, "g2", wanted("b", wait_ms=0))])
    assert refused.reason == "LOCKED"
    assert "'b' is held by g1 since " in refused.message
    assert await caller.one(operation, "g1", **wanted("a", "b")) == "SUCCEEDED"
    assert (await tokens(caller, "g3", "b"))["b"] > 1
    assert await caller.rows(QUEUE) == [("b", "g3")]


async def test_a_repeated_try_returns_the_same_tokens(caller: Caller) -> None:
    assert await tokens(caller, "g1", "a") == await tokens(caller, "g1", "a") == {"a": 1}
    assert await caller.rows(QUEUE) == [("a", "g1")]


async def test_waiting_transactions_are_served_in_the_order_of_arrival(
    transactions: Transactions, caller: Caller
) -> None:
    gids = ["g3", "g1", "g4", "g2"]
    for gid in gids:
        await transactions.start(gid, "a")
    for gid in gids:
        assert await transactions.outcome(gid) == "SUCCEEDED"
        assert transactions.answered[-1] == gid
        await transactions.end(gid)
    assert await caller.rows(QUEUE) == []


async def test_shared_holders_do_not_starve_an_exclusive_one(transactions: Transactions) -> None:
    await transactions.start("shared-1", "a", mode="shared")
    await transactions.start("shared-2", "a", mode="shared")
    assert await transactions.outcome("shared-2") == "SUCCEEDED"
    await transactions.start("exclusive", "a")
    await transactions.start("shared-3", "a", mode="shared")
    await transactions.end("shared-1")
    await transactions.end("shared-2")
    assert await transactions.outcome("exclusive") == "SUCCEEDED"
    assert "shared-3" not in transactions.answered
    await transactions.end("exclusive")
    assert await transactions.outcome("shared-3") == "SUCCEEDED"


async def test_a_lock_is_refused_when_the_time_to_wait_is_over(
    transactions: Transactions, caller: Caller
) -> None:
    await transactions.start("holder", "a")
    await transactions.start("impatient", "a", wait_ms=50)
    assert await transactions.outcome("impatient") == "LOCKED"
    assert await caller.rows(QUEUE) == [("a", "holder")]


async def test_a_cancelled_transaction_leaves_the_queue(transactions: Transactions, caller: Caller) -> None:
    await transactions.start("holder", "a")
    await transactions.start("gone", "a")
    await transactions.start("next", "a")
    await transactions.end("gone", CANCEL)
    assert await transactions.outcome("gone") == "LATE_TRY"
    await transactions.end("holder")
    assert await transactions.outcome("next") == "SUCCEEDED"
    assert await caller.rows(QUEUE) == [("a", "next")]


async def test_a_try_after_its_cancel_is_not_queued(caller: Caller) -> None:
    assert await caller.one(CANCEL, "g1", **wanted("a")) == "SUCCEEDED"
    assert await caller.one(TRY, "g1", **wanted("a")) == "LATE_TRY"
    assert await caller.rows(QUEUE) == []


async def test_a_try_that_the_coordinator_repeats_keeps_its_place(
    transactions: Transactions, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transactions.start("holder", "a")
    monkeypatch.setattr(work, "POSTPONED_MAX_S", 0.0)
    assert await caller.one(TRY, "first", **wanted("a")) == "LOCKED"
    assert await caller.one(TRY, "second", **wanted("a")) == "LOCKED"
    await transactions.end("holder")
    assert await caller.one(TRY, "second", **wanted("a")) == "LOCKED"
    assert await caller.one(TRY, "first", **wanted("a")) == "SUCCEEDED"


async def test_more_waiters_than_allowed_wait_at_the_coordinator(
    transactions: Transactions, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "WAITERS_MAX", 1)
    for gid in ("holder", "waits"):
        await transactions.start(gid, "a")
    assert await caller.one(TRY, "too-many", **wanted("a")) == "LOCKED"
    assert await caller.rows(QUEUE) == [("a", "holder"), ("a", "waits"), ("a", "too-many")]


async def test_transactions_that_share_keys_never_deadlock(caller: Caller) -> None:
    """Each of 20 transactions takes two of five keys, in either order, and all are served."""
    pairs = [*combinations("abcde", 2), *combinations("edcba", 2)]

    async def run(number: int, keys: tuple[str, str]) -> None:
        gid = f"g{number}"
        while (outcome := await caller.one(TRY, gid, **wanted(*keys))) == "LOCKED":
            pass  # it has waited for two seconds, and is repeated as by a coordinator
        assert outcome == "SUCCEEDED"
        assert await caller.one(CONFIRM, gid, **wanted(*keys)) == "SUCCEEDED"

    async with asyncio.timeout(60):
        await asyncio.gather(*(run(*numbered) for numbered in enumerate(pairs)))
    assert await caller.rows(QUEUE) == []


async def test_a_batch_is_served_in_its_order(caller: Caller) -> None:
    calls = [(TRY, gid, wanted("a", wait_ms=0)) for gid in ("g2", "g1", "g3")]
    outcomes = await caller.execute(calls)
    assert [code_or_reason(outcome) for outcome in outcomes] == ["SUCCEEDED", "LOCKED", "LOCKED"]


async def test_a_resource_refuses_an_older_token(database: AsyncEngine) -> None:
    async with database.begin() as db:
        await check_token(db, "a", 7)
        await check_token(db, "a", 7)
        await check_token(db, "b", 1)
        await check_token(db, "a", 9)
        with pytest.raises(Rejected) as refused:
            await check_token(db, "a", 8)
        assert refused.value.reason == "OLD_TOKEN"
        await check_token(db, "a", 9)


async def test_metrics_count_what_is_held_and_what_waits(serve: Any, database: AsyncEngine) -> None:
    metrics = LockMetrics()
    transactions = Transactions(await serve(locks(database, metrics=metrics), "acquire"))
    await transactions.start("holder", "a", "b")
    await transactions.start("waits", "b")
    await transactions.start("refused", "a", wait_ms=0)
    async with database.connect() as db:
        held = await store.held(db)
    assert (held.held, held.waiting) == (2, 1)
    assert held.held_since_ms is not None
    lines = metrics.text(held, held.held_since_ms + 1_500).splitlines()
    assert "tcc_locks_held_keys 2" in lines
    assert "tcc_locks_oldest_held_seconds 1.5" in lines
    assert "tcc_locks_waited_for_keys 1" in lines
    assert "tcc_locks_refused_total 1" in lines
    assert "tcc_locks_wait_seconds_count 1" in lines


async def test_the_cancel_of_an_invalid_request_succeeds(caller: Caller) -> None:
    assert await caller.one(TRY, "g1", keys="a") == "INVALID_PAYLOAD"
    assert await caller.one(CANCEL, "g1", keys="a") == "SUCCEEDED"
