"""The audit accepts consistent data and reports every kind of violation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.audit import AuditedTransaction, End, Violation, audit, list_transactions, read_snapshot
from participants.coupon.store import issue
from participants.inventory.store import restock
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc as pb_grpc
from tests.support.processes import run_python

from .conftest import CANCEL, CONFIRM, TRY, Caller

BRANCHES = (("inventory", "reserve_stock"), ("coupon", "use_coupon"), ("order", "open_order"))


def transaction(gid: str, end: End) -> AuditedTransaction:
    return AuditedTransaction(gid=gid, end=end, branches=BRANCHES)


TRANSACTIONS = (transaction("good", End.CONFIRMED), transaction("bad", End.CANCELLED))


@pytest.fixture
async def honest(
    inventory_caller: Caller, coupon_caller: Caller, order_caller: Caller, database: AsyncEngine
) -> AsyncEngine:
    """One purchase of 2 confirmed, one of 3 cancelled, through the services."""
    async with database.begin() as db:
        await restock(db, "first", {"A": 10})
        await issue(db, ["c-good", "c-bad", "c-spare"])
    for gid, quantity, end in (("good", 2, CONFIRM), ("bad", 3, CANCEL)):
        order = {"order_id": f"o-{gid}", "customer_id": "ann", "sku": "A", "quantity": quantity}
        for operation in (TRY, end):
            assert await inventory_caller.one(operation, gid, sku="A", quantity=quantity) == "SUCCEEDED"
            assert await coupon_caller.one(operation, gid, coupon_id=f"c-{gid}") == "SUCCEEDED"
            assert await order_caller.one(operation, gid, **order, coupon_id=f"c-{gid}") == "SUCCEEDED"
    return database


async def audited(
    database: AsyncEngine, transactions: tuple[AuditedTransaction, ...] = TRANSACTIONS
) -> list[Violation]:
    url = database.url.render_as_string(hide_password=False)
    return audit(await read_snapshot(inventory=url, coupon=url, order=url), transactions)


async def test_consistent_databases_are_ok(honest: AsyncEngine) -> None:
    assert await audited(honest) == []


def held(state: str, gid: str) -> str:
    return (
        f"UPDATE coupon SET state = '{state}', gid = '{gid}', branch_id = 'use_coupon' "
        "WHERE coupon_id = 'c-bad'"
    )


UNCHECKED = "ALTER TABLE stock DROP CONSTRAINT stock_available_check"
FORGERIES = {
    "stock appears": (["UPDATE stock SET available = available + 1"], {"STOCK_NOT_CONSERVED"}),
    "stock vanishes": (["DELETE FROM stock"], {"STOCK_NOT_CONSERVED", "SOLD_DISAGREES"}),
    "a restock is forgotten": (["DELETE FROM restock_entry"], {"STOCK_NOT_CONSERVED"}),
    "sold stock is available again": (
        ["UPDATE stock SET available = available + 2, sold = 0"],
        {"SOLD_DISAGREES"},
    ),
    "stock is reserved without a reservation": (
        ["UPDATE stock SET available = available - 1, reserved = 1"],
        {"RESERVED_DISAGREES"},
    ),
    "oversold": (
        [
            UNCHECKED,
            "UPDATE stock SET available = -1, sold = 11",
            "UPDATE reservation SET quantity = 11 WHERE gid = 'good'",
        ],
        {"STOCK_NEGATIVE"},
    ),
    "a reservation is left over": (
        [
            "UPDATE reservation SET state = 'RESERVED' WHERE gid = 'bad'",
            "UPDATE stock SET available = available - 3, reserved = 3",
        ],
        {"LEFT_OVER"},
    ),
    "a cancelled purchase was sold": (
        [
            "UPDATE reservation SET state = 'CONFIRMED' WHERE gid = 'bad'",
            "UPDATE stock SET available = available - 3, sold = sold + 3",
        ],
        {"MIXED_OUTCOME"},
    ),
    "a confirmed purchase was given back": (
        [
            "UPDATE reservation SET state = 'CANCELLED' WHERE gid = 'good'",
            "UPDATE stock SET available = available + 2, sold = 0",
        ],
        {"MIXED_OUTCOME"},
    ),
    "a reservation of an unknown transaction": (
        ["UPDATE reservation SET gid = 'unknown' WHERE gid = 'bad'"],
        {"ORPHAN"},
    ),
    "a reservation of no branch": (
        ["UPDATE reservation SET branch_id = 'x' WHERE gid = 'bad'"],
        {"BRANCH_UNKNOWN"},
    ),
    "a confirmed reservation is gone": (
        ["DELETE FROM reservation WHERE gid = 'good'"],
        {"RECORD_MISSING", "SOLD_DISAGREES"},
    ),
    "a coupon stays frozen": (
        [held("FROZEN", "bad")],
        {"LEFT_OVER"},
    ),
    "a coupon is used by a cancelled purchase": (
        [held("USED", "bad")],
        {"MIXED_OUTCOME"},
    ),
    "a coupon of an unknown transaction": (
        [held("USED", "unknown")],
        {"ORPHAN"},
    ),
    "a used coupon is available again": (
        ["UPDATE coupon SET state = 'AVAILABLE', gid = NULL, branch_id = NULL WHERE coupon_id = 'c-good'"],
        {"RECORD_MISSING", "COUPON_NOT_USED"},
    ),
    "another coupon was used than the order says": (
        ["UPDATE orders SET coupon_id = 'c-spare' WHERE gid = 'good'"],
        {"COUPON_NOT_USED"},
    ),
    "an order stays pending": (["UPDATE orders SET state = 'PENDING' WHERE gid = 'bad'"], {"LEFT_OVER"}),
    "an order of a confirmed purchase is cancelled": (
        ["UPDATE orders SET state = 'CANCELLED' WHERE gid = 'good'"],
        {"MIXED_OUTCOME"},
    ),
    "an order of a cancelled purchase is confirmed": (
        ["UPDATE orders SET state = 'CONFIRMED', coupon_id = NULL WHERE gid = 'bad'"],
        {"MIXED_OUTCOME"},
    ),
    "an order is gone": (["DELETE FROM orders WHERE gid = 'good'"], {"RECORD_MISSING"}),
    "an order of an unknown transaction": (
        ["UPDATE orders SET gid = 'unknown' WHERE gid = 'bad'"],
        {"ORPHAN"},
    ),
}


# One of each part: stock, coupons, orders.
QUICK = {"oversold", "a coupon of an unknown transaction", "an order of an unknown transaction"}


@pytest.mark.parametrize(
    "forgery",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FORGERIES],
)
async def test_a_forgery_is_caught(honest: AsyncEngine, forgery: str) -> None:
    statements, rules = FORGERIES[forgery]
    async with honest.begin() as db:
        for statement in statements:
            await db.execute(text(statement))
    assert {violation.rule for violation in await audited(honest)} == rules


async def test_a_coupon_that_paid_twice_is_caught(honest: AsyncEngine, order_caller: Caller) -> None:
    order = {"order_id": "o-2", "customer_id": "bob", "sku": "A", "quantity": 1, "coupon_id": "c-good"}
    await order_caller.execute([(TRY, "twice", order)])
    await order_caller.execute([(CONFIRM, "twice", order)])
    twice = AuditedTransaction(gid="twice", end=End.CONFIRMED, branches=(("order", "open_order"),))
    [violation] = await audited(honest, (*TRANSACTIONS, twice))
    assert (violation.rule, violation.subject) == ("COUPON_USED_TWICE", "c-good")


async def test_a_transaction_that_has_not_ended_is_a_violation(honest: AsyncEngine) -> None:
    [violation] = await audited(honest, (TRANSACTIONS[0], transaction("bad", End.OPEN)))
    assert (violation.rule, violation.subject) == ("TRANSACTION_OPEN", "bad")


async def test_other_participants_are_not_audited(honest: AsyncEngine) -> None:
    other = AuditedTransaction(gid="other", end=End.CONFIRMED, branches=(("shipping", "b"),))
    assert await audited(honest, (*TRANSACTIONS, other)) == []


async def run_audit(coordinator: str, url: str) -> tuple[int, str]:
    databases = ("--inventory", url, "--coupon", url, "--order", url)
    ended = await run_python("-m", "participants.audit", "--coordinator", coordinator, *databases)
    return ended.status, ended.out


class PagedCoordinator(pb_grpc.TransactionServiceServicer):
    """Lists three transactions, one a page."""

    states = (
        common.TRANSACTION_STATE_CONFIRMED,
        common.TRANSACTION_STATE_CANCELLED,
        common.TRANSACTION_STATE_CONFIRMING,
    )

    async def ListTransactions(  # noqa: N802 - the contract names it
        self, request: pb.ListTransactionsRequest, context: Any
    ) -> Any:
        number = int(request.page_token or "0")
        state = self.states[number]
        spec = common.BranchSpec(participant="order", branch_id="b")
        found = common.Transaction(gid=f"g{number}", state=state, branches=[common.Branch(spec=spec)])
        token = str(number + 1) if number < 2 else ""
        return pb.ListTransactionsResponse(transactions=[found], next_page_token=token)


@pytest.fixture
async def coordinator() -> AsyncIterator[str]:
    server = grpc.aio.server()
    pb_grpc.add_TransactionServiceServicer_to_server(PagedCoordinator(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def test_it_reads_every_page_of_the_coordinator(coordinator: str) -> None:
    listed = await asyncio.to_thread(lambda: list(list_transactions(coordinator)))
    assert [(one.gid, one.end, one.branches) for one in listed] == [
        ("g0", End.CONFIRMED, (("order", "b"),)),
        ("g1", End.CANCELLED, (("order", "b"),)),
        ("g2", End.OPEN, (("order", "b"),)),
    ]


async def test_its_command_reports_the_violations_and_exits_with_1(
    coordinator: str, database: AsyncEngine, database_url: str
) -> None:
    status, output = await run_audit(coordinator, database_url)
    assert status == 1
    assert output.splitlines() == [
        "TRANSACTION_OPEN g2: it has not ended",
        "RECORD_MISSING order b: transaction g0 is CONFIRMED and has no record here",
    ]


async def test_its_command_prints_ok_and_exits_with_0(
    coordinator: str, order_caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PagedCoordinator, "states", (common.TRANSACTION_STATE_CANCELLED,) * 3)
    assert await run_audit(coordinator, database_url) == (0, "ok\n")
