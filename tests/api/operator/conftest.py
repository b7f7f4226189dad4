"""A coordinator with its admin listener, and one scripted participant, "stock"."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from tcc.admin.v1 import admin_pb2 as apb, admin_pb2_grpc
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed
from tests.support.worker import Running, branch, running, settings_for

Stub = admin_pb2_grpc.AdminServiceStub
REPORTS = {"admin": {"listen": "127.0.0.1:0", "report_every_s": 0.05}}


def operator_context(
    version: int = 0, reason: str = "incident 7", operator: str = "ann"
) -> apb.OperatorContext:
    return apb.OperatorContext(operator=operator, reason=reason, version=version)


def execute(gid: str, *branch_ids: str, **fields: object) -> pb.ExecuteTransactionRequest:
    branches = [branch(branch_id) for branch_id in branch_ids or ("1",)]
    return pb.ExecuteTransactionRequest(gid=gid, branches=branches, **fields)


@asynccontextmanager
async def operators_of(worker: Running) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.worker.admin_port}") as channel:
        yield Stub(channel)


class Refusing:
    """A script that fails one operation, permanently or until it is changed."""

    def __init__(self, operation: "common.Operation", reason: str = "BOOKS_CLOSED") -> None:
        self.operation = operation
        self.reason = reason
        self.mended = False

    async def __call__(self, call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == self.operation and not self.mended:
            return failed(self.reason)
        return SUCCEEDED


async def until(look: Callable[[], object]) -> None:
    """Poll until `look` finds something. Each poll is a call, so this is no busy loop."""
    while not await look():
        pass


@pytest.fixture
async def tcc(log_url: str, stock: ScriptedParticipant) -> AsyncIterator[Running]:
    settings = settings_for({"stock": {"target": stock.address, "attempts_before_stuck": 3}}, **REPORTS)
    async with running(settings, log_url) as worker:
        yield worker


@pytest.fixture
async def admin(tcc: Running) -> AsyncIterator[Stub]:
    async with operators_of(tcc) as stub:
        yield stub


async def inspect(admin: Stub, gid: str) -> apb.InspectTransactionResponse:
    return await admin.InspectTransaction(apb.InspectTransactionRequest(gid=gid))


async def act_on(admin: Stub, method: str, gid: str, reason: str = "incident 7", **fields: object):
    """Act as an operator: read, act on the version read, and read again if it has changed since."""
    request = getattr(apb, f"{method}Request")
    while True:
        seen = (await inspect(admin, gid)).transaction.version
        try:
            return await getattr(admin, method)(
                request(gid=gid, operator_context=operator_context(seen, reason), **fields)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
