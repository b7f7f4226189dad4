"""Transactions for the tests of the log, and their later states."""

from typing import Any

import psycopg
from msgspec.structs import replace

from coordinator.core.model import (
    NOW,
    Branch,
    BranchSpec,
    CancelReason,
    Transaction,
    TransactionState,
    TryState,
)
from coordinator.ports.log import Log

# For statements of tests that name the tables of the log.
SEARCH_PATH = "-c search_path=tcc,public"
EXPIRES_AT = 2_000_000_000.5


def begun(gid: str, *participants: str, **fields: Any) -> Transaction:
    """A new transaction, with a branch for each participant."""
    specs = [
        BranchSpec(
            branch_id=f"b-{name}",
            participant=name,
            action="reserve",
            payload=b"\x00\xff" + name.encode(),
            content_type="text/plain",
            stage=index,
            cancel_in_stage_order=index == 1,
        )
        for index, name in enumerate(participants or ("inventory", "coupon"))
    ]
    branches = tuple([Branch(spec=spec) for spec in specs])
    fields.setdefault("fingerprint", gid.encode())
    return Transaction(gid=gid, branches=branches, expires_at=EXPIRES_AT, **fields)


def landed(tx: Transaction) -> Transaction:
    """Return what the core makes of `tx` after its write."""
    return replace(tx, version=tx.version + 1, saved_state=tx.state, saved_branches=len(tx.branches))


def each_branch(tx: Transaction, **changes: Any) -> Transaction:
    return replace(tx, branches=tuple([replace(branch, **changes) for branch in tx.branches]))


def confirming(tx: Transaction) -> Transaction:
    return each_branch(replace(tx, state=TransactionState.CONFIRMING), tried=TryState.SUCCEEDED)


def cancelling(tx: Transaction) -> Transaction:
    return replace(tx, state=TransactionState.CANCELLING, cancel_reason=CancelReason.REQUESTED)


def ended(tx: Transaction) -> Transaction:
    state = (
        TransactionState.CONFIRMED if tx.state is TransactionState.CONFIRMING else TransactionState.CANCELLED
    )
    return each_branch(replace(tx, state=state, stuck=False), done=True)


def parked(tx: Transaction, *, until: float = NOW + 1, on: str = "inventory") -> Transaction:
    branch = replace(tx.branches[0], attempts=3, last_error="IT_FAILED: so it is", next_attempt_at=until)
    return replace(tx, branches=(branch, *tx.branches[1:]), next_attempt_at=until, waiting_on=on)


async def insert(log: Log, *transactions: Transaction) -> list[Transaction]:
    assert await log.transaction_begin(transactions) == [None] * len(transactions)
    return [landed(tx) for tx in transactions]


async def save(log: Log, tx: Transaction) -> Transaction:
    assert await log.transaction_save([tx]) == [True]
    return landed(tx)


async def stored(log: Log, gid: str) -> Transaction:
    return (await log.transaction_get([gid]))[gid].tx


async def sql(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, options=SEARCH_PATH) as connection:
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []
