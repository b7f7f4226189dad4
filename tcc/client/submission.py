"""Submission of whole transactions: over a stream, or else by calls.

Where the coordinator has them, streams carry the transactions (tcc.client.streams). The rest goes by
calls, alone when idle and in batches under load: what is larger than a batch, what a stream was broken
with twice, and everything while no stream can be opened.

Such an item is put into a batcher. A batch of one item is sent as the unary
ExecuteTransaction, so a single caller pays for one plain call. Items that arrive while it
is in flight are sent together as ExecuteTransactions.

When is the next batch sent? If it waited for the previous one to end, one slow transaction
would delay all later ones. If it did not wait, all batches would have one item. So the next
batch is sent when the previous one is done, when a full batch waits, or after a *linger*
time: a quarter of the time that half of a call's replies took recently, between 1 and
50 ms. By Little's law, N callers then have about four batches of N/4 in flight, at any speed
of the coordinator, and a caller waits at most a quarter longer than necessary. (Half of the
replies, because the first ones are early and the last one may be a slow Try.)

Items are independent of each other. A reply settles only its own caller. If one item fails or
a stream breaks, only items without a reply are retried or failed. If a batch is refused as
a whole, for a reason other than load or time, its items are sent again one by one, so that
one invalid item does not affect the others.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tcc._internal.batcher import Batcher
from tcc._internal.failpoint import failpoint
from tcc.client.retry import is_retryable, pause_s
from tcc.client.streams import Stream, Streams
from tcc.errors import ClientClosed, DeadlineExceeded, TccError, Unavailable, error_from_reply, error_from_rpc
from tcc.transaction.v1 import transaction_pb2 as pb

MAX_CALLS_IN_FLIGHT = 4
LINGER_MIN_S = 0.001
LINGER_MAX_S = 0.05
# The weight of a new measurement in the smoothed reply time.
SMOOTHING = 0.25
# The tag and the length of an item within its batch.
ITEM_OVERHEAD_BYTES = 8


class _Item:
    """A submitted transaction and the future of its caller."""

    __slots__ = (
        "alone",
        "answer",
        "answered_by",
        "attempt",
        "breaks",
        "deadline",
        "error",
        "number",
        "payload_bytes",
        "request",
        "stream",
    )

    def __init__(
        self,
        request: pb.ExecuteTransactionRequest,
        answer: asyncio.Future[pb.TransactionOutcome],
        deadline: float,
    ) -> None:
        self.request = request
        self.answer = answer
        # By the event loop's clock.
        self.deadline = deadline
        self.payload_bytes = request.ByteSize() + ITEM_OVERHEAD_BYTES
        self.attempt = 0
        # Why the previous attempt failed.
        self.error: TccError | None = None
        # True after a batch with it was refused as a whole: it is sent alone from then on.
        self.alone = False
        # How often a stream ended without a reply to it.
        self.breaks = 0
        self.stream: Stream | None = None
        self.number = 0
        self.answered_by: Stream | None = None


class Submitter:
    """Executes transactions through one stub. Belongs to the running event loop; `close` ends it."""

    def __init__(
        self,
        execute_transaction: Callable[..., Any],
        execute_transactions: Callable[..., Any],
        stream_transactions: Callable[..., Any] | None = None,
        *,
        token: Callable[[], str] | None = None,
        batch_items_max: int,
        batch_bytes_max: int,
        on_error: Callable[[TccError], None] = lambda _: None,
    ) -> None:
        """Take the stub's methods. Without `stream_transactions` there are no streams.

        `token` returns what the stub shows. `on_error` is called with the error of each failed attempt.
        """
        self._on_error = on_error
        self._execute_transaction = execute_transaction
        self._execute_transactions = execute_transactions
        self._batch_items_max = batch_items_max
        self._batch_bytes_max = batch_bytes_max
        self._batcher = Batcher(
            self._send,
            items_max=batch_items_max,
            bytes_max=batch_bytes_max,
            size=lambda item: item.payload_bytes,
        )
        self._loop = asyncio.get_running_loop()
        self._sender = self._loop.create_task(self._batcher.run())
        self._calls: set[asyncio.Task[None]] = set()
        self._waiting: set[_Item] = set()
        self._reply_s = 0.0
        self._streams = stream_transactions and Streams(
            stream_transactions, self, token=token, items_max=batch_items_max, bytes_max=batch_bytes_max
        )

    async def submit(
        self, request: pb.ExecuteTransactionRequest, *, timeout_s: float
    ) -> pb.TransactionOutcome:
        """Return the outcome of one transaction; the request must carry its gid.

        Raises:
            TccError: The coordinator's error, or Unavailable, ResourceExhausted or
                DeadlineExceeded after the caller's timeout.
        """
        loop = self._loop
        item = _Item(request, loop.create_future(), loop.time() + timeout_s)
        alarm = loop.call_at(item.deadline, _expire, item)
        self._waiting.add(item)
        self._put(item)
        try:
            return await item.answer
        finally:
            alarm.cancel()
            self._waiting.discard(item)
            if item.stream is not None:
                item.stream.cancel(item)

    async def close(self) -> None:
        """Abandon all items; their callers get ClientClosed."""
        for item in self._waiting:
            _fail(item, ClientClosed("the client was closed before the response"))
        if self._streams is not None:
            await self._streams.close()
        tasks = [self._sender, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _put(self, item: _Item) -> None:
        if item.answer.done():  # its caller has left, or the client was closed, before a retry
            return
        fits = not item.alone and item.payload_bytes <= self._batch_bytes_max
        if self._streams is None or not fits or not self._streams.put(item):
            self._batcher.put(item)

    # --- streams ----------------------------------------------------------

    def on_reply(self, item: _Item, reply: pb.StreamTransactionsReply) -> None:
        self._take(item, reply)

    def on_not_opened(self, items: Sequence[_Item]) -> None:
        self._batcher.put_many(items)

    def on_break(self, items: Sequence[_Item], failure: Exception | None) -> None:
        for item in items:
            item.breaks += 1
            item.alone = item.breaks > 1
            if isinstance(failure, grpc.aio.AioRpcError) or failure is None:
                self._retry_or_fail(item, _error_of_stream(failure), in_batch=True)
            else:  # a bug here: every caller must see it, not only the log
                _fail(item, failure)

    # --- calls ------------------------------------------------------------

    async def _send(self, batch: list[_Item]) -> None:
        """Start the calls of a batch, and return when the next batch may be sent."""
        wanted = [item for item in batch if not item.answer.done()]
        together = [item for item in wanted if not item.alone]
        calls = [self._start([item]) for item in wanted if item.alone]
        if together:
            calls.append(self._start(together))
        if calls and len(self._batcher) < self._batch_items_max:
            await asyncio.wait(calls, timeout=self._linger_s())

    def _linger_s(self) -> float:
        return min(LINGER_MAX_S, max(LINGER_MIN_S, self._reply_s / MAX_CALLS_IN_FLIGHT))

    def _start(self, items: list[_Item]) -> asyncio.Task[None]:
        call = self._loop.create_task(self._call(items))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    async def _call(self, items: list[_Item]) -> None:
        """Make one call for these items. Then each is settled or scheduled for another attempt."""
        # The items without a reply in this call. An item whose reply asked for a retry may be in
        # flight again before this call ends, so the end of this call must not affect it.
        missing = dict(enumerate(items))
        failure: grpc.aio.AioRpcError | None = None
        failpoint("client.execute.send")
        try:
            await (self._call_unary(items[0]) if len(items) == 1 else self._call_batch(missing))
        except grpc.aio.AioRpcError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a bug here: every caller must see it, not only the log
            for item in items:
                _fail(item, error)
            return
        failpoint("client.execute.answered")
        for item in missing.values():
            if not item.answer.done():
                self._retry_or_fail(item, _error_of(failure), in_batch=len(items) > 1)

    async def _call_unary(self, item: _Item) -> None:
        started = self._loop.time()
        response = await self._execute_transaction(item.request, timeout=max(0.0, item.deadline - started))
        self._measure(started)
        _settle(item, response.outcome)

    async def _call_batch(self, missing: dict[int, _Item]) -> None:
        """Make a batch call. Remove each item from `missing` (by index in the batch) at its reply."""
        started = self._loop.time()
        items = list(missing.values())
        deadline = max(item.deadline for item in items)
        request = pb.ExecuteTransactionsRequest(transactions=[item.request for item in items])
        half = len(items) // 2
        async for response in self._execute_transactions(request, timeout=max(0.0, deadline - started)):
            before = len(missing)
            for reply in response.replies:
                item = missing.pop(reply.index, None)
                if item is not None:  # a duplicate reply is ignored
                    self._take(item, reply)
            if before > half >= len(missing):
                self._measure(started)

    def _take(self, item: _Item, reply: pb.ExecuteTransactionsReply | pb.StreamTransactionsReply) -> None:
        if reply.HasField("error"):
            self._retry_or_fail(item, error_from_reply(reply.error), in_batch=False)
        else:
            _settle(item, reply.outcome)

    def _measure(self, started: float) -> None:
        took_s = self._loop.time() - started
        # The first measurement has full weight.
        self._reply_s += (SMOOTHING if self._reply_s else 1.0) * (took_s - self._reply_s)

    # --- failing ----------------------------------------------------------

    def _retry_or_fail(self, item: _Item, error: TccError, *, in_batch: bool) -> None:
        """Schedule a retry or settle the item with the error. `in_batch`: the error is of the whole batch."""
        if item.answer.done():
            return
        item.error = error
        self._on_error(error)
        time_left_s = item.deadline - self._loop.time()
        if in_batch and not is_retryable(error) and not isinstance(error, DeadlineExceeded):
            item.alone = True
            self._put(item)
            return
        wait_s = pause_s(error, attempt=item.attempt, time_left_s=time_left_s, jitter=random.random())
        if wait_s is None:
            _fail(item, error)
            return
        item.attempt += 1
        self._loop.call_later(wait_s, self._put, item)


def _settle(item: _Item, outcome: pb.TransactionOutcome) -> None:
    if not item.answer.done():
        item.answer.set_result(outcome)


def _fail(item: _Item, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)


def _expire(item: _Item) -> None:
    error = DeadlineExceeded(f"transaction {item.request.gid} had no response in time")
    error.__cause__ = item.error
    _fail(item, error)


def _error_of(failure: grpc.aio.AioRpcError | None) -> TccError:
    """Return a new error for each caller, because each gets its own traceback."""
    if failure is None:
        return Unavailable("the call ended without a response")
    error = error_from_rpc(failure)
    error.__cause__ = failure
    return error


def _error_of_stream(failure: grpc.aio.AioRpcError | None) -> TccError:
    """Return a new error for each caller.

    If a connection breaks during a write, gRPC reports an internal error of its own in place of the status.
    """
    error = _error_of(failure)
    if error.reason != grpc.StatusCode.INTERNAL.name:
        return error
    broken = Unavailable("the stream was broken")
    broken.__cause__ = failure
    return broken
