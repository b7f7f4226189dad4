"""Confirm and Cancel without a payload: which participants find the branch's rows, and which do not."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.coupon.store import issue
from participants.inventory.store import restock
from tcc.participant.v1 import participant_pb2 as pb
from tcc.payload import UNKNOWN

from .conftest import CANCEL, CONFIRM, TRY, Caller, code_or_reason


async def end(caller: Caller, operation: int, gid: str) -> str:
    call = pb.BranchCall(
        gid=gid, branch_id=caller.action, operation=operation, action=caller.action, content_type=UNKNOWN
    )
    responses = caller.stub.ExecuteBranches(pb.ExecuteBranchesRequest(calls=[call]))
    [outcome] = [outcome async for response in responses for outcome in response.results]
    return code_or_reason(outcome)


async def test_the_inventory_knows_what_it_holds(inventory_caller: Caller, database: AsyncEngine) -> None:
    async with database.begin() as db:
        await restock(db, "first", {"A": 10})
    for gid, quantity in (("sold", 3), ("lost", 4)):
        assert await inventory_caller.one(TRY, gid, sku="A", quantity=quantity) == "SUCCEEDED"
    assert await end(inventory_caller, CONFIRM, "sold") == "SUCCEEDED"
    assert await end(inventory_caller, CANCEL, "lost") == "SUCCEEDED"
    assert await inventory_caller.rows("SELECT available, reserved, sold FROM stock") == [(7, 0, 3)]


@pytest.mark.parametrize(("operation", "state"), [(CONFIRM, "CONFIRMED"), (CANCEL, "CANCELLED")])
async def test_orders_know_their_branch(order_caller: Caller, operation: int, state: str) -> None:
    opened = {"order_id": "o", "customer_id": "ann", "sku": "A", "quantity": 1}
    assert await order_caller.one(TRY, "g", **opened) == "SUCCEEDED"
    assert await end(order_caller, operation, "g") == "SUCCEEDED"
    assert await order_caller.rows("SELECT state FROM orders") == [(state,)]


async def test_coupons_need_their_payload(coupon_caller: Caller, database: AsyncEngine) -> None:
    async with database.begin() as db:
        await issue(db, ["c"])
    assert await coupon_caller.one(TRY, "g", coupon_id="c") == "SUCCEEDED"
    assert await end(coupon_caller, CANCEL, "g") == "PAYLOAD_NEEDED"
    assert await coupon_caller.rows("SELECT state FROM coupon") == [("FROZEN",)]
    assert await coupon_caller.one(CANCEL, "g", coupon_id="c") == "SUCCEEDED"
