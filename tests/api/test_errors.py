"""How a servicer's method ends, over real gRPC: refusals, bugs, aborts, callers that cancel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from structlog.testing import capture_logs

from coordinator.api.errors import Context, refusals_as_statuses, to_error
from coordinator.core.errors import Overloaded, Refused
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.support.errors import refused

Script = Callable[[Context], Awaitable[pb.GetTransactionResponse]]


class Scripted(transaction_pb2_grpc.TransactionServiceServicer):
    """Answer GetTransaction as the test sets."""

    call_max_s = 30.0
    script: Script

    def refused(self, _method: str, _request: object, _context: Context, error: Refused, /) -> Refused:
        return error

    @refusals_as_statuses
    async def GetTransaction(  # noqa: N802 - the name in the contract
        self, _request: pb.GetTransactionRequest, context: Context
    ) -> pb.GetTransactionResponse:
        return await self.script(context)


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()


@pytest.fixture
async def stub(servicer: Scripted) -> AsyncIterator[transaction_pb2_grpc.TransactionServiceStub]:
    server = grpc.aio.server()
    transaction_pb2_grpc.add_TransactionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield transaction_pb2_grpc.TransactionServiceStub(channel)
    await server.stop(None)


REQUEST = pb.GetTransactionRequest(gid="g")


@pytest.mark.parametrize(("wait_s", "wait_ms"), [(0.0, 0), (0.0002, 1), (0.2, 200)])
def test_an_item_never_loses_its_hint_to_retry(wait_s: float, wait_ms: int) -> None:
    # Without a hint, clients do not repeat the request.
    assert to_error(Overloaded("too much", retry_after_s=wait_s)).retry_after_ms == wait_ms


@pytest.mark.parametrize("timeout_s", [None, 30.0], ids=["capped", "own deadline"])
async def test_a_bug_is_internal_and_its_text_stays_inside(
    servicer: Scripted, stub: transaction_pb2_grpc.TransactionServiceStub, timeout_s: float | None
) -> None:
    async def break_down(_context: Context) -> pb.GetTransactionResponse:
        raise KeyError("a secret of the inside")

    servicer.script = break_down
    with capture_logs() as logged:
        async with refused("INTERNAL", "INTERNAL_ERROR") as refusal:
            await stub.GetTransaction(REQUEST, timeout=timeout_s)
    assert "secret" not in str(refusal.error.details())
    assert [(entry["log_level"], entry["exc_info"], entry["method"]) for entry in logged] == [
        ("error", True, "GetTransaction")
    ]


async def test_a_refusal_is_no_bug(
    servicer: Scripted, stub: transaction_pb2_grpc.TransactionServiceStub
) -> None:
    async def refuse(_context: Context) -> pb.GetTransactionResponse:
        raise Overloaded("too much", retry_after_s=0.5)

    servicer.script = refuse
    with capture_logs() as logged:
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED") as refusal:
            await stub.GetTransaction(REQUEST)
    assert (refusal.error.details(), refusal.retry_after_s) == ("too much", 0.5)
    assert logged == []


async def test_an_abort_of_the_methods_own_stands(
    servicer: Scripted, stub: transaction_pb2_grpc.TransactionServiceStub
) -> None:
    async def abort(context: Context) -> pb.GetTransactionResponse:
        await context.abort(grpc.StatusCode.DATA_LOSS, "by ourselves")
        raise AssertionError("abort raises")

    servicer.script = abort
    with capture_logs() as logged, pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.GetTransaction(REQUEST)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.DATA_LOSS, "by ourselves")
    assert logged == []


async def test_a_cancelled_call_is_not_logged_as_a_bug(
    servicer: Scripted, stub: transaction_pb2_grpc.TransactionServiceStub
) -> None:
    called, left = asyncio.Event(), asyncio.Event()

    async def wait(_context: Context) -> pb.GetTransactionResponse:
        called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # After the decorator has seen it.
            asyncio.get_running_loop().call_soon(left.set)
            raise
        raise AssertionError("the test sets it")

    servicer.script = wait
    with capture_logs() as logged:
        call = stub.GetTransaction(REQUEST)
        await called.wait()
        call.cancel()
        await left.wait()
    assert logged == []
