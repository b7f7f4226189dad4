"""A client's end of StreamTransactions that sends what a test wants, over real gRPC."""

from typing import Any

import grpc

from tcc.transaction.v1 import transaction_pb2 as pb

METHOD = "/tcc.transaction.v1.TransactionService/StreamTransactions"
EOF = grpc.aio.EOF  # type: ignore[attr-defined] # the stubs lack it


class TransactionStream:
    """One stream. `greeting` is the first response, once `opened` has returned."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Any = ()) -> None:
        open_call: Any = channel.stream_stream(
            METHOD, response_deserializer=pb.StreamTransactionsResponse.FromString
        )
        self.call = open_call(metadata=metadata)
        self.greeting = pb.StreamTransactionsResponse()
        # The replies by id, and whether the coordinator has asked to leave.
        self.replies: dict[int, pb.StreamTransactionsReply] = {}
        self.draining = False

    async def opened(self) -> "TransactionStream":
        self.greeting = await self.call.read()
        return self

    async def send(self, **transactions: pb.ExecuteTransactionRequest) -> None:
        """Send items in one message; the name of each is its id after a letter."""
        items = [item(int(name[1:]), transaction) for name, transaction in transactions.items()]
        await self.send_raw(pb.StreamTransactionsRequest(items=items).SerializeToString())

    async def cancel(self, *ids: int) -> None:
        await self.send_raw(pb.StreamTransactionsRequest(cancelled_ids=ids).SerializeToString())

    async def send_raw(self, message: bytes) -> None:
        await self.call.write(message)

    async def reply(self, item_id: int) -> pb.StreamTransactionsReply:
        """Wait for the reply to an item."""
        while item_id not in self.replies:
            await self._read()
        return self.replies[item_id]

    async def until_draining(self) -> None:
        while not self.draining:
            await self._read()

    async def end(self) -> None:
        """Half-close the stream, and wait until the coordinator ends it."""
        await self.call.done_writing()
        while (response := await self.call.read()) is not EOF:
            self._take(response)

    async def _read(self) -> None:
        response = await self.call.read()
        assert response is not EOF, "the stream has ended"
        self._take(response)

    def _take(self, response: pb.StreamTransactionsResponse) -> None:
        self.replies |= {reply.id: reply for reply in response.replies}
        self.draining = self.draining or response.draining


def item(
    item_id: int, transaction: pb.ExecuteTransactionRequest, timeout_ms: int = 30_000
) -> pb.StreamTransactionsItem:
    return pb.StreamTransactionsItem(id=item_id, timeout_ms=timeout_ms, transaction=transaction)
