"""An initiator that begins transactions and leaves them undecided.

Told to `hold`, it begins so many more, in one of four ways, and answers when it
has asked for them all:

- accepted: whole transactions whose acceptance alone is waited for. They stay
  undecided while a participant answers no Try. No call stays open.
- batched, unary: the same, but their decision is waited for: their calls stay open.
- interactive: step by step, every branch tried, and then nothing more. No call
  stays open.

No call has a deadline, and the expiry is far away.
"""

import asyncio
from typing import Any

import grpc
import uvloop

from bench import work
from bench.commands import Command, serve_commands
from tcc._internal.uuid7 import uuid7
from tcc.client.requests import branch_spec
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc

BATCH = 256
EXPIRY_S = 3_600
# Interactive transactions that are being begun at once.
_STEPS_AT_ONCE = 64


class LiveLoad:
    """What it holds stays open until the process ends."""

    def __init__(self) -> None:
        self._open: list[Any] = []
        self._stub: Any = None

    async def handle(self, command: Command) -> Command:
        assert command["do"] == "hold"
        if self._stub is None:
            channel = grpc.aio.insecure_channel(command["target"])
            self._stub = transaction_pb2_grpc.TransactionServiceStub(channel)
        match command["mode"]:
            case "accepted":
                await self._hold_accepted(command["count"])
            case "batched":
                self._hold_batched(command["count"])
            case "unary":
                self._hold_unary(command["count"])
            case "interactive":
                await self._hold_interactive(command["count"])
        return {}

    async def _hold_accepted(self, count: int) -> None:
        for first in range(0, count, BATCH):
            transactions = [_whole() for _ in range(min(BATCH, count - first))]
            for each in transactions:
                each.wait_for = pb.WAIT_FOR_ACCEPTED
            request = pb.ExecuteTransactionsRequest(transactions=transactions)
            async for _ in self._stub.ExecuteTransactions(request):
                pass

    def _hold_batched(self, count: int) -> None:
        for first in range(0, count, BATCH):
            transactions = [_whole() for _ in range(min(BATCH, count - first))]
            request = pb.ExecuteTransactionsRequest(transactions=transactions)
            self._open.append(self._stub.ExecuteTransactions(request))

    def _hold_unary(self, count: int) -> None:
        self._open += [self._stub.ExecuteTransaction(_whole()) for _ in range(count)]

    async def _hold_interactive(self, count: int) -> None:
        permits = asyncio.Semaphore(_STEPS_AT_ONCE)

        async def hold() -> None:
            async with permits:
                begin = pb.BeginTransactionRequest()
                begin.expiry.seconds = EXPIRY_S
                begun = await self._stub.BeginTransaction(begin)
                for spec in _branches():
                    await self._stub.TryBranch(pb.TryBranchRequest(gid=begun.gid, branch=spec))

        await asyncio.gather(*[hold() for _ in range(count)])


def _whole() -> pb.ExecuteTransactionRequest:
    request = pb.ExecuteTransactionRequest(gid=uuid7(), branches=_branches())
    request.expiry.seconds = EXPIRY_S
    return request


def _branches() -> list[common.BranchSpec]:
    return [branch_spec(name, work.ACTION, work.PAYLOAD, name) for name in work.PARTICIPANTS]


if __name__ == "__main__":
    uvloop.run(serve_commands(LiveLoad().handle))
