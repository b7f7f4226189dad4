"""A TransactionService that answers as a test tells it, over real gRPC on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tcc._internal.server_options import server_options
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc


def status(
    code: int, reason: str = "", message: str = "", *, retry_after_ms: int = 0, **metadata: str
) -> Status:
    """A refusal as the coordinator says it."""
    result = Status(code=code, message=message)
    details: list[Any] = []
    if reason:
        details.append(ErrorInfo(reason=reason, domain="tcc", metadata=metadata))
    if retry_after_ms:
        hint = RetryInfo()
        hint.retry_delay.FromMilliseconds(retry_after_ms)
        details.append(hint)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        result.details.append(packed)
    return result


UNAVAILABLE = status(Code.UNAVAILABLE, "LOG_UNAVAILABLE", "the log is down", retry_after_ms=1)


def confirmed(gid: str, **results: bytes) -> pb.TransactionOutcome:
    return pb.TransactionOutcome(
        gid=gid,
        state=common.TRANSACTION_STATE_CONFIRMING,
        results=[pb.BranchResult(branch_id=key, result=value) for key, value in results.items()],
    )


def rejected(gid: str, branch_id: str, detail: str, message: str = "") -> pb.TransactionOutcome:
    return pb.TransactionOutcome(
        gid=gid,
        state=common.TRANSACTION_STATE_CANCELLING,
        cancel_reason=common.CANCEL_REASON_REJECTED,
        cancel_branch_id=branch_id,
        cancel_detail=detail,
        cancel_message=message,
    )


async def _confirm_everything(request: pb.ExecuteTransactionRequest) -> pb.TransactionOutcome:
    return confirmed(request.gid)


class ScriptedService(transaction_pb2_grpc.TransactionServiceServicer):
    """Every request is kept in `requests`, by method; what a method answers stands in `answers`.

    A whole transaction's answer comes from `execute`: an outcome, a `common.Error`, or a `Status` that
    ends its whole call. The unary methods take theirs from `answers`, first in, first out: a
    response, or a `Status`.
    """

    def __init__(self) -> None:
        self.unary: list[pb.ExecuteTransactionRequest] = []
        self.batches: list[pb.ExecuteTransactionsRequest] = []
        self.execute: Callable[
            [pb.ExecuteTransactionRequest], Awaitable[pb.TransactionOutcome | common.Error | Status]
        ] = _confirm_everything
        self.requests: list[Any] = []
        self.answers: list[Any] = []
        self.time_left_s: list[float] = []

    @property
    def gids(self) -> list[str]:
        """Return the gid of every transaction that arrived in any call."""
        return [request.gid for request in self.unary] + [
            item.gid for batch in self.batches for item in batch.transactions
        ]

    async def ExecuteTransaction(self, request: Any, context: Any) -> Any:
        self.unary.append(request)
        self.time_left_s.append(context.time_remaining())
        answer = await self.execute(request)
        if isinstance(answer, Status):
            await context.abort_with_status(rpc_status.to_status(answer))
        if isinstance(answer, common.Error):
            error = status(answer.code, answer.reason, answer.message, retry_after_ms=answer.retry_after_ms)
            await context.abort_with_status(rpc_status.to_status(error))
        return pb.ExecuteTransactionResponse(outcome=answer)

    async def ExecuteTransactions(self, request: Any, context: Any) -> Any:
        self.batches.append(request)
        self.time_left_s.append(context.time_remaining())
        items = enumerate(request.transactions)
        running = [asyncio.create_task(self._reply(index, item)) for index, item in items]
        waiting = set(running)
        try:
            while waiting:
                # What is known at the same time goes in one message, as the coordinator does it.
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                replies = [task.result() for task in done]
                for whole_call in replies:
                    if isinstance(whole_call, Status):
                        await context.abort_with_status(rpc_status.to_status(whole_call))
                await context.write(pb.ExecuteTransactionsResponse(replies=replies))
        finally:
            for task in running:
                task.cancel()

    async def StreamTransactions(self, _requests: Any, context: Any) -> None:
        """Refuse, as a coordinator does that is older than streams."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    async def _reply(self, index: int, item: Any) -> Any:
        match await self.execute(item):
            case Status() as whole_call:
                return whole_call
            case common.Error() as error:
                return pb.ExecuteTransactionsReply(index=index, error=error)
            case outcome:
                return pb.ExecuteTransactionsReply(index=index, outcome=outcome)

    async def _answer(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        self.time_left_s.append(context.time_remaining())
        answer = self.answers.pop(0)
        if isinstance(answer, Status):
            await context.abort_with_status(rpc_status.to_status(answer))
        return answer

    BeginTransaction = TryBranch = RegisterBranch = _answer
    ConfirmTransaction = CancelTransaction = _answer
    GetTransaction = ListTransactions = WaitTransaction = _answer


@contextlib.asynccontextmanager
async def serving(service: ScriptedService, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serves beside the block, which gets the target."""
    server = grpc.aio.server(options=server_options(reuse_port=False))
    transaction_pb2_grpc.add_TransactionServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
