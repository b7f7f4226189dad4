"""A TransactionService with streams, over real gRPC on loopback: a test sees and decides each message."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.client.scripted_service import ScriptedService, confirmed

Execute = Callable[[pb.ExecuteTransactionRequest], Awaitable[Any]]


def reply(item: Any) -> pb.StreamTransactionsReply:
    return pb.StreamTransactionsReply(id=item.id, outcome=confirmed(item.transaction.gid))


class OpenStream:
    """One stream, as the server sees it."""

    def __init__(self, context: Any, number: int, received: list[Any]) -> None:
        self._context = context
        self._received = received
        # gRPC allows one write at a time.
        self._writing = asyncio.Lock()
        self.number = number
        self.metadata = dict(context.invocation_metadata())
        # Set when the client half-closes it.
        self.half_closed = asyncio.Event()
        self.cancelled_ids: list[int] = []

    async def read(self) -> list[Any]:
        """Return the items of the next message; none: the client has half-closed the stream."""
        request = await self._context.read()
        if request is grpc.aio.EOF:
            self.half_closed.set()
            return []
        self.cancelled_ids += request.cancelled_ids
        self._received += [item.transaction for item in request.items]
        return list(request.items)

    async def item(self) -> Any:
        [item] = await self.read()
        return item

    async def greet(self, *, credit: int = 100, coordinator_id: str = "one") -> None:
        await self.send(credit=credit, coordinator_id=coordinator_id)

    async def confirm(self, *items: Any) -> None:
        """Answer items in one message."""
        await self.send(replies=[reply(item) for item in items])

    async def send(self, **fields: Any) -> None:
        async with self._writing:
            await self._context.write(pb.StreamTransactionsResponse(**fields))

    async def fail(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """End the stream with this status."""
        await self._context.abort(code, "broken")

    async def serve(self, execute: Execute) -> None:
        """Answer each item with what `execute` returns, as soon as it does."""
        async with asyncio.TaskGroup() as tasks:
            while items := await self.read():
                for item in items:
                    tasks.create_task(self._answer(item, execute))

    async def _answer(self, item: Any, execute: Execute) -> None:
        match await execute(item.transaction):
            case common.Error() as error:
                answer = pb.StreamTransactionsReply(id=item.id, error=error)
            case outcome:
                answer = pb.StreamTransactionsReply(id=item.id, outcome=outcome)
        await self.send(replies=[answer])


class StreamingService(ScriptedService):
    """Each stream is kept in `streams`, and served by `serve`: without it, by `execute`."""

    def __init__(self, serve: Callable[[OpenStream], Awaitable[None]] | None = None) -> None:
        super().__init__()
        self.serve = serve or self._serve
        self.streams: list[OpenStream] = []
        self.streamed: list[pb.ExecuteTransactionRequest] = []

    @property
    def gids(self) -> list[str]:
        return super().gids + [request.gid for request in self.streamed]

    async def StreamTransactions(self, _requests: Any, context: Any) -> None:
        stream = OpenStream(context, len(self.streams) + 1, self.streamed)
        self.streams.append(stream)
        await self.serve(stream)

    async def _serve(self, stream: OpenStream) -> None:
        await stream.greet()
        await stream.serve(self.execute)
