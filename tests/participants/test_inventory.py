"""The inventory through gRPC over PostgreSQL: reservations, overselling, partitions and the gate."""

import asyncio
import json
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.inventory.service import inventory
from participants.inventory.store import (
    StockChange,
    StockConflictError,
    reserved,
    restock,
    stock_change,
    stock_lock,
)

from .conftest import CANCEL, CONFIRM, TRY, Caller, Clock, call, code_or_reason

STOCK = "SELECT sku, available, reserved, sold FROM stock ORDER BY sku"


async def put_in(database: AsyncEngine, **quantities: int) -> None:
    async with database.begin() as db:
        await restock(db, "first", quantities)


async def test_try_reserves_confirm_sells_cancel_gives_back(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, A=10)
    assert await inventory_caller.one(TRY, "g1", sku="A", quantity=3) == "SUCCEEDED"
    assert await inventory_caller.one(TRY, "g2", sku="A", quantity=4) == "SUCCEEDED"
    assert await inventory_caller.rows(STOCK) == [("A", 3, 7, 0)]
    assert await inventory_caller.one(CONFIRM, "g1", sku="A", quantity=3) == "SUCCEEDED"
    assert await inventory_caller.one(CANCEL, "g2", sku="A", quantity=4) == "SUCCEEDED"
    assert await inventory_caller.rows(STOCK) == [("A", 7, 0, 3)]
    assert await inventory_caller.rows("SELECT gid, state FROM reservation ORDER BY gid") == [
        ("g1", "CONFIRMED"),
        ("g2", "CANCELLED"),
    ]


async def test_the_freeze_id_is_the_result_and_a_repeated_try_gets_it_again(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, A=1)
    [first] = await inventory_caller.execute([(TRY, "g", {"sku": "A", "quantity": 1})])
    [again] = await inventory_caller.execute([(TRY, "g", {"sku": "A", "quantity": 1})])
    freeze_id = UUID(json.loads(first.result)["freeze_id"])
    assert await inventory_caller.rows("SELECT freeze_id FROM reservation") == [(freeze_id,)]
    assert again.result == first.result


@pytest.mark.parametrize(
    "payload",
    [
        {"sku": "A", "quantity": 0},
        {"sku": "A", "quantity": -1},
        {"sku": "", "quantity": 1},
        {"sku": "A"},
        {"sku": "A", "quantity": 1, "colour": "red"},
        {"sku": "A", "quantity": 10**9},
    ],
)
async def test_a_payload_that_makes_no_sense_is_refused_for_good(
    inventory_caller: Caller, payload: dict[str, object]
) -> None:
    [outcome] = await inventory_caller.execute([(TRY, "g", payload)])
    assert (outcome.reason, outcome.permanent) == ("INVALID_PAYLOAD", True)


async def test_unknown_and_sold_out_skus_are_business_noes(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, A=1)
    assert await inventory_caller.one(TRY, "g1", sku="B", quantity=1) == "UNKNOWN_SKU"
    assert await inventory_caller.one(TRY, "g2", sku="A", quantity=2) == "SOLD_OUT"
    assert await inventory_caller.rows("SELECT count(*) FROM reservation") == [(0,)]


async def test_within_a_batch_the_first_to_arrive_is_served(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, A=2)
    outcomes = await inventory_caller.execute(
        [(TRY, gid, {"sku": "A", "quantity": 1}) for gid in ("z", "y", "b", "a")]
    )
    assert [code_or_reason(outcome) for outcome in outcomes] == [
        "SUCCEEDED",
        "SUCCEEDED",
        "SOLD_OUT",
        "SOLD_OUT",
    ]


async def test_hundreds_of_concurrent_trys_never_oversell(serve: object, database: AsyncEngine) -> None:
    """Two processes' worth of participants, unary and batched calls, one hot SKU and a few others."""
    callers = [await serve(inventory(database), "reserve_stock") for _ in range(2)]
    await put_in(database, hot=100, a=5, b=5)
    unary = [
        callers[n % 2].stub.TryBranch(
            _unary(call(TRY, f"u{n}", "reserve_stock", {"sku": "hot", "quantity": 1 + n % 3}))
        )
        for n in range(300)
    ]
    batches = [
        callers[n % 2].execute(
            [(TRY, f"{n}-{i}", {"sku": ("hot", "a", "b")[(n + i) % 3], "quantity": 1}) for i in range(50)]
        )
        for n in range(8)
    ]
    answers, outcomes = await asyncio.gather(asyncio.gather(*unary), asyncio.gather(*batches))
    endings = [code_or_reason(answer.result) for answer in answers] + [
        code_or_reason(outcome) for batch in outcomes for outcome in batch
    ]
    assert set(endings) == {"SUCCEEDED", "SOLD_OUT"}
    assert await callers[0].rows(STOCK) == [("a", 0, 5, 0), ("b", 0, 5, 0), ("hot", 0, 100, 0)]
    assert await callers[0].rows("SELECT sku, sum(quantity)::int FROM reservation GROUP BY 1 ORDER BY 1") == [
        ("a", 5),
        ("b", 5),
        ("hot", 100),
    ]
    [(count,)] = await callers[0].rows("SELECT count(*) FROM reservation")
    assert count == endings.count("SUCCEEDED")


def _unary(one: object) -> object:
    from tcc.participant.v1 import participant_pb2 as pb

    return pb.TryBranchRequest(call=one)


async def test_confirms_and_cancels_of_shared_skus_do_not_deadlock(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, **{f"s{n}": 100 for n in range(20)})
    gids = [(f"g{n}", {"sku": f"s{n % 20}", "quantity": 1}) for n in range(400)]
    await inventory_caller.execute([(TRY, gid, payload) for gid, payload in gids])
    confirms, cancels = gids[::2], gids[1::2][::-1]
    batches = [[(CONFIRM, *item) for item in confirms], [(CANCEL, *item) for item in cancels]]
    outcomes = await asyncio.gather(*(inventory_caller.execute(batch) for batch in batches))
    assert {code_or_reason(outcome) for batch in outcomes for outcome in batch} == {"SUCCEEDED"}
    [sums] = await inventory_caller.rows(
        "SELECT sum(available)::int, sum(reserved)::int, sum(sold)::int FROM stock"
    )
    assert sums == (1_800, 0, 200)
    assert await inventory_caller.rows(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ) == [(0,)]


async def test_a_sold_out_sku_is_refused_without_the_database(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    """While another transaction locks the stock table, a Try is still rejected."""
    await put_in(database, A=1)
    await inventory_caller.one(TRY, "g1", sku="A", quantity=1)
    assert await inventory_caller.one(TRY, "g2", sku="A", quantity=1) == "SOLD_OUT"
    async with database.connect() as db:
        await stock_lock(db, ["A"])
        async with asyncio.timeout(60):
            assert await inventory_caller.one(TRY, "g3", sku="A", quantity=1) == "SOLD_OUT"


async def test_a_cancel_makes_its_stock_available_at_once(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, A=1)
    await inventory_caller.one(TRY, "g1", sku="A", quantity=1)
    await inventory_caller.one(TRY, "g2", sku="A", quantity=1)
    await inventory_caller.one(CANCEL, "g1", sku="A", quantity=1)
    assert await inventory_caller.one(TRY, "g3", sku="A", quantity=1) == "SUCCEEDED"


async def test_a_restock_elsewhere_is_noticed_when_belief_ends(
    inventory_caller: Caller, database: AsyncEngine, clock: Clock
) -> None:
    await put_in(database, A=1)
    await inventory_caller.one(TRY, "g1", sku="A", quantity=1)
    await inventory_caller.one(TRY, "g2", sku="A", quantity=1)
    async with database.begin() as db:
        await restock(db, "second", {"A": 5})
    assert await inventory_caller.one(TRY, "g3", sku="A", quantity=1) == "SOLD_OUT"
    clock.now_s = 1.0
    assert await inventory_caller.one(TRY, "g4", sku="A", quantity=1) == "SUCCEEDED"


async def test_a_repeated_try_passes_the_gate_and_is_replayed(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, A=1)
    await inventory_caller.one(TRY, "g1", sku="A", quantity=1)
    await inventory_caller.one(TRY, "g2", sku="A", quantity=1)
    again = call(TRY, "g1", "reserve_stock", {"sku": "A", "quantity": 1}, attempt=1)
    answer = await inventory_caller.stub.TryBranch(_unary(again))
    assert code_or_reason(answer.result) == "SUCCEEDED"


async def test_a_reservation_changed_from_outside_is_reported_and_fails_no_other(
    inventory_caller: Caller, database: AsyncEngine
) -> None:
    await put_in(database, A=10)
    for gid in ("g1", "g2"):
        await inventory_caller.one(TRY, gid, sku="A", quantity=1)
    await inventory_caller.change("UPDATE reservation SET state = 'CANCELLED' WHERE gid = 'g1'")
    payload = {"sku": "A", "quantity": 1}
    broken, sound = await inventory_caller.execute([(CONFIRM, "g1", payload), (CONFIRM, "g2", payload)])
    assert code_or_reason(broken) == "HANDLER_ERROR"
    assert "CONFIRM is not allowed in state CANCELLED" in broken.message
    assert code_or_reason(sound) == "SUCCEEDED"


async def test_the_conditional_update_is_the_authority(database: AsyncEngine) -> None:
    await put_in(database, A=1)
    async with database.connect() as db:
        with pytest.raises(StockConflictError):
            await stock_change(db, [StockChange("A", -2, 2, 0)])


async def test_a_repeated_restock_puts_nothing_in_twice(database: AsyncEngine) -> None:
    async with database.begin() as db:
        assert await restock(db, "monday", {"A": 5, "B": 1}) == 2
        assert await restock(db, "monday", {"A": 5}) == 0
        assert await restock(db, "tuesday", {"A": 2}) == 1
        assert await stock_lock(db, ["A", "B"]) == {"A": 7, "B": 1}


async def test_thousands_of_branches_are_found_without_a_whole_read(database: AsyncEngine) -> None:
    keys = [(f"g{number}", "b") for number in range(2_500)]
    async with database.begin() as db:
        await db.execute(
            text(
                "INSERT INTO reservation (gid, branch_id, freeze_id, sku, quantity, state) "
                "SELECT 'g' || n, 'b', gen_random_uuid(), 'A', 1, 'RESERVED' "
                "FROM generate_series(1, 20000) AS n"
            )
        )
        assert await reserved(db, keys) == set(keys[1:])
        read = await db.execute(
            text("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'reservation'")
        )
        assert read.scalar_one() == 0
