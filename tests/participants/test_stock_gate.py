"""The gate in Redis before the inventory: real PostgreSQL, real Redis, real gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from participants import redis_server
from participants.inventory.gate import StockGate
from participants.inventory.service import inventory
from participants.inventory.store import restock, stock_lock
from tests.support.redis_process import needs_redis

from .conftest import CANCEL, CONFIRM, TRY, Caller, Clock, call, code_or_reason

pytestmark = needs_redis
if not redis_server.missing():
    from participants.inventory import tokens
    from participants.inventory.breaker import Breaker
    from participants.inventory.gate_metrics import GateMetrics
    from participants.inventory.redis_gate import GateAnswer, RedisGate
    from participants.inventory.sync_back import SyncBack
    from participants.inventory.tokens import Lifetimes, Tokens, Wanted

TRYS = {"admitted", "sold_out", "unknown_sku", "bypassed"}


class Shop:
    """One inventory without a gate of its own, behind a gate in Redis whose waits are generous."""

    def __init__(
        self, caller: Caller, counts: Any, sync_back: Any, metrics: Any, database: AsyncEngine
    ) -> None:
        self.caller = caller
        self.counts = counts
        self.sync_back = sync_back
        self.metrics = metrics
        self._database = database

    async def put_in(self, restock_id: str = "first", **quantities: int) -> None:
        async with self._database.begin() as db:
            await restock(db, restock_id, quantities)

    async def tokens(self, sku: str = "A") -> int | None:
        [count] = await self.counts.read([sku])
        return count.tokens

    async def try_(self, gid: str, sku: str = "A", quantity: int = 1) -> str:
        return await self.caller.one(TRY, gid, sku=sku, quantity=quantity)

    async def compare(self, *, flight_max_s: float = 60.0) -> None:
        await SyncBack(self.counts, self._database, self.metrics, flight_max_s=flight_max_s).compare(["A"])

    async def counted(self) -> dict[str, int]:
        lines = [line for line in (await self.metrics.text()).splitlines() if "{" in line]
        return {line.split('"')[1]: int(line.split()[-1]) for line in lines}


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with redis_server.redis_server() as socket:
        yield socket


@pytest.fixture
async def shop(serve: Any, database: AsyncEngine, socket: str) -> AsyncIterator[Shop]:
    counts, metrics = Tokens(f"unix://{socket}", Lifetimes(unknown_s=60)), GateMetrics()
    await counts._redis.flushall()
    sync_back = SyncBack(counts, database, metrics)
    shared = RedisGate(counts, sync_back.compare, metrics, budget_s=60, load_wait_s=60)
    participant = inventory(database, gate=StockGate(believed_for_s=0), shared=shared)
    yield Shop(await serve(participant, "reserve_stock"), counts, sync_back, metrics, database)
    await counts.close()


async def test_sold_out_in_redis_is_refused_without_the_database(shop: Shop, database: AsyncEngine) -> None:
    await shop.put_in(A=1)
    assert await shop.try_("g1") == "SUCCEEDED"
    assert await shop.tokens() == 0
    async with database.connect() as db:
        await stock_lock(db, ["A"])
        async with asyncio.timeout(60):
            assert await shop.try_("g2") == "SOLD_OUT"
    counted = await shop.counted()
    assert {key: counted[key] for key in TRYS} == {
        "admitted": 1,
        "sold_out": 1,
        "unknown_sku": 0,
        "bypassed": 0,
    }


async def test_a_cancel_gives_its_units_back_once(shop: Shop) -> None:
    await shop.put_in(A=3)
    assert await shop.try_("g1", quantity=3) == "SUCCEEDED"
    assert await shop.try_("g2") == "SOLD_OUT"
    for _ in range(2):
        assert await shop.caller.one(CANCEL, "g1", sku="A", quantity=3) == "SUCCEEDED"
        assert await shop.tokens() == 3
    assert await shop.try_("g3") == "SUCCEEDED"


async def test_a_confirm_keeps_the_units(shop: Shop) -> None:
    await shop.put_in(A=3)
    await shop.try_("g1", quantity=2)
    assert await shop.caller.one(CONFIRM, "g1", sku="A", quantity=2) == "SUCCEEDED"
    await shop.compare()
    assert await shop.tokens() == 1


@pytest.mark.parametrize(
    "broken",
    [
        ("HSET", "{stock}:sku:A", "tokens", "5.5"),
        ("HSET", "{stock}:sku:A", "tokens", "many"),
        ("SET", "{stock}:sku:A", "x"),
        ("SET", "{stock}:flight:A", "x"),
        ("HSET", "{stock}:flight:A", "g9", "soon"),
        ("HSET", "{stock}:flight:A", "g9\0b", b"\xff:\xff"),
    ],
)
async def test_wrong_contents_of_a_sku_are_replaced_and_stop_no_other(
    shop: Shop, database: AsyncEngine, broken: tuple[Any, ...]
) -> None:
    await shop.put_in(A=3, B=3)
    assert {await shop.try_("g1"), await shop.try_("g2", sku="B")} == {"SUCCEEDED"}
    redis = shop.counts._redis
    if broken[0] == "SET":
        await redis.delete(broken[1])
    await redis.execute_command(*broken)
    await redis.hset("{stock}:sku:B", "tokens", 9)
    await shop.sync_back.compare(["A", "B"])
    assert await shop.tokens("B") == 2
    assert await shop.try_("g3") == "SUCCEEDED"
    await shop.compare()
    assert await shop.tokens("A") == 1


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        ("ALTER TABLE reservation RENAME TO gone", "HANDLER_ERROR"),
        ("UPDATE stock SET available = 0", "SOLD_OUT"),
    ],
)
async def test_a_try_that_the_database_fails_or_refuses_gives_its_units_back(
    shop: Shop, breaks: str, reason: str
) -> None:
    await shop.put_in(A=3)
    assert await shop.try_("g1") == "SUCCEEDED"
    await shop.caller.change(breaks)
    assert await shop.try_("g2") == reason
    assert await shop.tokens() == 2


async def test_a_try_after_its_cancel_gives_its_units_back(shop: Shop) -> None:
    await shop.put_in(A=3)
    assert await shop.caller.one(CANCEL, "g1", sku="A", quantity=2) == "SUCCEEDED"
    assert await shop.try_("g1", quantity=2) == "LATE_TRY"
    assert await shop.tokens() == 3


async def test_a_repeated_try_of_a_sold_out_sku_is_replayed(shop: Shop) -> None:
    await shop.put_in(A=1)
    assert await shop.try_("g1") == "SUCCEEDED"
    assert await shop.try_("g1") == "SUCCEEDED"
    await shop.counts.give_back([("g1", "reserve_stock")])
    await shop.try_("g2")
    again = call(TRY, "g1", "reserve_stock", {"sku": "A", "quantity": 1}, attempt=1)
    from tcc.participant.v1 import participant_pb2 as pb

    answer = await shop.caller.stub.TryBranch(pb.TryBranchRequest(call=again))
    assert code_or_reason(answer.result) == "SUCCEEDED"


async def test_a_sku_that_the_database_does_not_know_is_remembered(shop: Shop, database: AsyncEngine) -> None:
    assert await shop.try_("g1", sku="X") == "UNKNOWN_SKU"
    async with database.connect() as db:
        await db.exec_driver_sql("LOCK TABLE stock")
        async with asyncio.timeout(60):
            assert await shop.try_("g2", sku="X") == "UNKNOWN_SKU"
    await shop.put_in(X=1)
    await shop.counts._redis.delete("{stock}:unknown:X")  # as if its time were over
    assert await shop.try_("g3", sku="X") == "SUCCEEDED"
    assert await shop.tokens("X") == 0


async def test_a_comparison_leaves_alone_what_is_in_flight(shop: Shop) -> None:
    await shop.put_in(A=10)
    await shop.try_("g1")
    await shop.counts.take([Wanted(("crashed", "b"), "A", 4)])
    await shop.compare()
    assert await shop.tokens() == 5
    await shop.compare(flight_max_s=0)
    assert await shop.tokens() == 9
    assert await shop.counts.give_back([("crashed", "b")]) == 0
    assert (await shop.counted())["too_few"] == 4


@pytest.mark.parametrize(("units", "drift"), [(5, "too_many"), (-5, "too_few")])
async def test_a_comparison_repairs_and_counts_drift(shop: Shop, units: int, drift: str) -> None:
    await shop.put_in(A=10)
    await shop.try_("g1")
    await shop.counts._redis.hincrby("{stock}:sku:A", "tokens", units)
    await shop.compare()
    assert await shop.tokens() == 9
    assert {key: n for key, n in (await shop.counted()).items() if n and key not in TRYS} == {drift: 5}


async def test_a_restock_is_for_sale_after_the_next_comparison(shop: Shop) -> None:
    await shop.put_in(A=1)
    await shop.try_("g1")
    await shop.put_in("second", A=2)
    assert await shop.try_("g2") == "SOLD_OUT"
    await shop.compare()
    assert await shop.try_("g3") == "SUCCEEDED"


async def test_without_redis_the_database_decides(serve: Any, database: AsyncEngine, clock: Clock) -> None:
    counts, metrics = Tokens("unix:///nonexistent"), GateMetrics()
    breaker = Breaker(failures_max=2, open_s=1.0, clock=clock)
    sync_back = SyncBack(counts, database, metrics)
    shared = RedisGate(counts, sync_back.compare, metrics, budget_s=60, breaker=breaker)
    participant = inventory(database, gate=StockGate(believed_for_s=0), shared=shared)
    shop = Shop(await serve(participant, "reserve_stock"), counts, sync_back, metrics, database)
    await shop.put_in(A=2)
    assert [await shop.try_(gid) for gid in ("g1", "g2", "g3")] == ["SUCCEEDED", "SUCCEEDED", "SOLD_OUT"]
    assert await shop.caller.one(CANCEL, "g1", sku="A", quantity=1) == "SUCCEEDED"
    assert await shop.caller.rows("SELECT available, reserved FROM stock") == [(1, 1)]
    assert (await shop.counted())["bypassed"] == 3
    assert metrics.is_open


async def test_a_redis_that_does_not_answer_in_time_is_not_waited_for(
    serve: Any, database: AsyncEngine
) -> None:
    silent = await asyncio.start_server(lambda _reader, _writer: asyncio.Event().wait(), "127.0.0.1", 0)
    counts = Tokens(f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    shared = RedisGate(counts, SyncBack(counts, database, GateMetrics()).compare, GateMetrics())
    participant = inventory(database, gate=StockGate(believed_for_s=0), shared=shared)
    caller = await serve(participant, "reserve_stock")
    async with database.begin() as db:
        await restock(db, "first", {"A": 2})
    trys = [(TRY, f"g{n}", {"sku": "A", "quantity": 1}) for n in range(600)]  # more than one call of Redis
    ended = [code_or_reason(outcome) for outcome in await caller.execute(trys)]
    assert ended == ["SUCCEEDED"] * 2 + ["SOLD_OUT"] * 598
    await counts.close()
    silent.close()


class SlowTokens:
    """Calls of Redis that are answered when the test says so. The gate's timing is the subject, not Redis."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()

    async def take(self, wanted: Sequence[Any], landed: Any) -> list[int | str]:
        self.asked.append("take")
        await self.may_answer.wait()
        return [tokens.REFUSED] * len(wanted)

    async def give_back(self, branches: Sequence[Any]) -> int:
        self.asked.append("give back")
        return len(branches)


class BusyTokens(SlowTokens):
    """The answers are there at once, but this process is busy for twice the budget before it reads them."""

    async def take(self, wanted: Sequence[Any], landed: Any) -> list[int | str]:
        for _ in range(2):
            until_s = time.monotonic() + 2 * BUDGET_S
            while time.monotonic() < until_s:
                pass
            await asyncio.sleep(0)
        return [tokens.REFUSED] * len(wanted)


BUDGET_S = 0.01


def _gate(counts: SlowTokens, metrics: Any) -> Any:
    async def load(_skus: Sequence[str]) -> None: ...

    return RedisGate(cast("Any", counts), load, metrics, budget_s=BUDGET_S)


async def _until_closed(metrics: Any) -> None:
    while metrics.is_open:  # noqa: ASYNC110 - it is closed on this very loop
        await asyncio.sleep(0)


async def test_time_in_which_this_process_is_busy_is_none_of_redis() -> None:
    gate = _gate(BusyTokens(), GateMetrics())
    assert await gate.take([Wanted(("g", "b"), "A", 1)]) == [GateAnswer.SOLD_OUT]


async def test_a_late_answer_opens_the_gate_until_it_has_come() -> None:
    counts, metrics = SlowTokens(), GateMetrics()
    gate = _gate(counts, metrics)
    wanted = [Wanted(("g", "b"), "A", 1)]
    assert await gate.take(wanted) == await gate.take(wanted) == [GateAnswer.ADMITTED]
    assert (counts.asked, metrics.is_open) == (["take"], True)
    counts.may_answer.set()
    await _until_closed(metrics)
    assert await gate.take(wanted) == [GateAnswer.SOLD_OUT]


async def test_units_that_a_late_call_may_take_are_given_back_after_it() -> None:
    counts, metrics = SlowTokens(), GateMetrics()
    gate = _gate(counts, metrics)
    await gate.take([Wanted(("g", "b"), "A", 1)])
    await gate.give_back([("g", "b")])
    assert counts.asked == ["take"]
    counts.may_answer.set()
    await _until_closed(metrics)
    assert counts.asked == ["take", "give back"]


def test_the_breaker_opens_after_failures_and_lets_one_attempt_through(clock: Clock) -> None:
    breaker = Breaker(failures_max=2, open_s=1.0, clock=clock)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert (breaker.is_open, breaker.allows()) == (True, False)
    clock.now_s = 1.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.succeeded()
    assert breaker.allows()


async def test_the_first_branch_in_flight_makes_a_hash_table(shop: Shop) -> None:
    """Redis keeps a list of up to 512 short fields, and searches it for each one that is written."""
    await shop.put_in(A=5)
    await shop.compare()
    await shop.counts.take([Wanted(("g", "b"), "A", 1)])
    assert await shop.counts._redis.object("encoding", "{stock}:flight:A") == b"hashtable"
