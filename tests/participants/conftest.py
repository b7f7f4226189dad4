"""The three participants over real PostgreSQL, called through real gRPC."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from participants.coupon.service import coupon
from participants.coupon.store import metadata as coupon_metadata
from participants.inventory.gate import StockGate
from participants.inventory.service import inventory
from participants.inventory.store import metadata as inventory_metadata
from participants.locks.store import metadata as locks_metadata
from participants.order.service import order
from participants.order.store import metadata as order_metadata
from participants.serving import create_schema
from tcc import Participant
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    """One database with the tables of all; they share no name."""
    engine = create_async_engine(database_url, pool_size=8, max_overflow=0)
    for metadata in (inventory_metadata, coupon_metadata, order_metadata, locks_metadata):
        await create_schema(engine, metadata)
    yield engine
    await engine.dispose()


def call(operation: int, gid: str, action: str, payload: dict[str, Any], attempt: int = 0) -> pb.BranchCall:
    return pb.BranchCall(
        gid=gid,
        branch_id=action,
        operation=operation,
        action=action,
        payload=json.dumps(payload).encode(),
        content_type="application/json",
        attempt=attempt,
    )


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Calls one participant's action as a coordinator does; a branch is named as its action."""

    stub: pb_grpc.ParticipantServiceStub
    action: str
    database: AsyncEngine

    async def execute(self, calls: Sequence[tuple[int, str, dict[str, Any]]]) -> list[common.CallResult]:
        """One batch; the outcomes in the order of the calls."""
        request = pb.ExecuteBranchesRequest(
            calls=[call(operation, gid, self.action, payload) for operation, gid, payload in calls]
        )
        outcomes = [o async for response in self.stub.ExecuteBranches(request) for o in response.results]
        return sorted(outcomes, key=lambda outcome: outcome.index)

    async def one(self, operation: int, gid: str, **payload: Any) -> str:
        """One call; answers `SUCCEEDED` or the reason."""
        [outcome] = await self.execute([(operation, gid, payload)])
        return code_or_reason(outcome)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with self.database.connect() as db:
            return [tuple(row) for row in await db.execute(text(query))]

    async def change(self, statement: str) -> None:
        async with self.database.begin() as db:
            await db.execute(text(statement))


def code_or_reason(outcome: common.CallResult) -> str:
    return "SUCCEEDED" if outcome.code == common.OUTCOME_CODE_SUCCEEDED else outcome.reason


@pytest.fixture
async def serve(database: AsyncEngine) -> AsyncIterator[Any]:
    """Start a participant and return a caller of its action."""
    async with AsyncExitStack() as running:

        async def start(participant: Participant, action: str) -> Caller:
            await participant.create_schema()
            port = await participant.start()
            running.push_async_callback(participant.stop, grace_s=0)
            channel = await running.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            return Caller(stub=pb_grpc.ParticipantServiceStub(channel), action=action, database=database)

        yield start


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def inventory_caller(serve: Any, database: AsyncEngine, clock: Clock) -> Caller:
    gate = StockGate(believed_for_s=1.0, clock=clock)
    return await serve(inventory(database, gate=gate), "reserve_stock")


@pytest.fixture
async def coupon_caller(serve: Any, database: AsyncEngine) -> Caller:
    return await serve(coupon(database), "use_coupon")


@pytest.fixture
async def order_caller(serve: Any, database: AsyncEngine) -> Caller:
    return await serve(order(database), "open_order")
