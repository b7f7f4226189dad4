"""Whole transactions as cheaply as an initiator can offer them: batches made beforehand.

The load is meant to overload a coordinator, not the machine: CPU that an initiator takes is
missing elsewhere. All batches therefore are the same bytes; the coordinator chooses the gids.

- Closed loop: a number of transactions is under way, and each batch that is answered
  is followed by the next one.
- Open loop: transactions arrive at a rate, whatever the outcome of earlier ones.
  A refused one is counted and not offered again.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import grpc

from bench import work
from bench.commands import Command
from tcc._internal.channel_options import client_options
from tcc.common.v1 import common_pb2 as common
from tcc.payload import encode
from tcc.transaction.v1 import transaction_pb2 as pb

BATCH = 64
METHOD = "/tcc.transaction.v1.TransactionService/ExecuteTransactions"
_TIMEOUT_S = 30.0
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
CANCELLED = (common.TRANSACTION_STATE_CANCELLING, common.TRANSACTION_STATE_CANCELLED)


class Measured:
    """What a load does: `begin` and `measured` enclose what counts."""

    def begin(self) -> None:
        """Discard what was measured so far."""
        self._began_at = time.perf_counter()
        self._latencies_us: list[int] = []
        self._failed: Counter[str] = Counter()

    def measured(self) -> Command:
        """Return what was done since `begin`."""
        return {
            "seconds": time.perf_counter() - self._began_at,
            "latencies_us": self._latencies_us,
            "failed": self._failed,
        }


class RawLoad(Measured):
    """A load; `stop` and `close` end it."""

    def __init__(
        self,
        target: str,
        branches: work.Transaction,
        *,
        wait_for: pb.WaitFor,
        in_flight: int,
        arrivals_per_second: float,
    ) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=client_options())
        self._execute = self._channel.unary_stream(
            METHOD,
            request_serializer=_as_it_is,
            response_deserializer=pb.ExecuteTransactionsResponse.FromString,
        )
        self._batch = BATCH if arrivals_per_second else min(BATCH, in_flight)
        self._request = _request(branches, wait_for, self._batch)
        self._running = True
        self._calls: set[asyncio.Task[None]] = set()
        if arrivals_per_second:
            self._loops = [asyncio.create_task(self._arrive(arrivals_per_second))]
        else:
            self._loops = [asyncio.create_task(self._repeat()) for _ in range(in_flight // self._batch)]
        self.begin()

    async def stop(self) -> None:
        self._running = False
        await asyncio.gather(*self._loops)
        await asyncio.gather(*self._calls)

    async def close(self) -> None:
        await self._channel.close(None)

    async def _repeat(self) -> None:
        while self._running:
            await self._call()

    async def _arrive(self, per_second: float) -> None:
        """Start a batch whenever one is due, and catch up after a busy moment."""
        every_s = self._batch / per_second
        next_at = time.perf_counter()
        while self._running:
            while next_at <= time.perf_counter():
                call = asyncio.create_task(self._call())
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                next_at += every_s
            await asyncio.sleep(next_at - time.perf_counter())

    async def _call(self) -> None:
        asked_at = time.perf_counter()
        missing = self._batch
        try:
            async for response in self._execute(self._request, timeout=_TIMEOUT_S):
                took_us = round((time.perf_counter() - asked_at) * 1e6)
                missing -= len(response.replies)
                self._count(response.replies, took_us)
        except grpc.aio.AioRpcError as error:
            self._failed[f"{error.code().name}: {error.details()}"[:200]] += missing

    def _count(self, replies: Any, took_us: int) -> None:
        for reply in replies:
            if reply.HasField("error"):
                self._failed[f"{_CODES[reply.error.code]}: {reply.error.message}"[:200]] += 1
            elif reply.outcome.state in CANCELLED:
                self._failed["cancelled"] += 1
            else:
                self._latencies_us.append(took_us)


def _request(branches: work.Transaction, wait_for: pb.WaitFor, count: int) -> bytes:
    transaction = pb.ExecuteTransactionRequest(wait_for=wait_for)
    for each in branches:
        payload, content_type = encode(each.payload)
        transaction.branches.add(
            branch_id=each.participant,
            participant=each.participant,
            action=each.action,
            payload=payload,
            content_type=content_type,
        )
    return pb.ExecuteTransactionsRequest(transactions=[transaction] * count).SerializeToString()


def _as_it_is(message: bytes) -> bytes:
    return message
