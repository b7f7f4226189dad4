"""Transactions over streams, which stay open: one message costs less than one call.

There is one stream to each coordinator that the channel reaches. A transaction goes to the stream with the
fewest in flight. What waits while a message is being written goes with the next one, so an idle stream
sends at once and a busy one sends many transactions together.

- *Which coordinator?* Only the coordinator tells, in its first response. So a further stream is opened now
  and then: gRPC takes the addresses in turn. It replaces the older stream to the same coordinator, and
  streams that are too old; it is the first one of a coordinator that is new.
- *Credit.* A coordinator tells how many transactions it takes at once. Further ones wait here.
- *Tokens.* A stream shows the token of its opening. If there is another one, another stream is opened.
- *The end of a stream.* Transactions without a reply are given back; the owner repeats them. A coordinator
  that drains asks for it: nothing more is sent there, and what is in flight is finished.
- *No stream.* If none can be opened, transactions are given back at once, to be sent by calls. A server
  that does not know streams is asked again after minutes: it may be replaced by a newer one.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc

from tcc._internal.failpoint import failpoint
from tcc._internal.token import token_metadata
from tcc.transaction.v1 import transaction_pb2 as pb

# A stream is replaced by this age at the latest, times one to two: its connection, and what its caller has
# proved with it, are as old.
AGE_MIN_S = 300.0
# How often a further stream is opened while there is work, and how soon after one was found or lost.
RENEW_S = 20.0
RENEW_SOON_S = 1.0
# After a stream could not be opened, and after a stream that is left was half-closed.
REOPEN_S = 1.0
LEAVING_MAX_S = 10.0
# By then a stream has its first response, or is given up: what waits for it is sent by calls.
OPENING_MAX_S = 3.0
STREAMS_MAX = 8
# How often it is checked whether there is another token; always if a coordinator does not accept it.
TOKEN_CHECKED_EVERY_S = 1.0
# How many transactions are sent before the coordinator has told its credit.
CREDIT_FIRST = 64
_TIMEOUT_MAX_MS = 2.0**32 - 1
_UNAUTHENTICATED: int = grpc.StatusCode.UNAUTHENTICATED.value[0]


class Item(Protocol):
    """A transaction to be sent."""

    request: pb.ExecuteTransactionRequest
    deadline: float
    payload_bytes: int
    # Where it is now, its id there (0: it waits to be sent), and where it was answered.
    stream: "Stream | None"
    number: int
    answered_by: "Stream | None"

    @property
    def answer(self) -> asyncio.Future[pb.TransactionOutcome]:
        """The future of its caller; done if the caller has left."""


class Owner(Protocol):
    """Gets what becomes of items."""

    def on_reply(self, item: Any, reply: pb.StreamTransactionsReply, /) -> None:
        """Take the reply to an item."""

    def on_not_opened(self, items: Sequence[Any], /) -> None:
        """Send these in another way: no stream could be opened."""

    def on_break(self, items: Sequence[Any], failure: Exception | None, /) -> None:
        """Repeat these: their stream has ended."""


class Streams:
    """The streams of one channel. Belongs to the running event loop; `close` ends it."""

    def __init__(
        self,
        open_call: Callable[..., Any],
        owner: Owner,
        *,
        token: Callable[[], str] | None,
        items_max: int,
        bytes_max: int,
    ) -> None:
        """`open_call`: the stub's method. `token`: what it shows. The bounds are those of one message."""
        self.open_call = open_call
        self.owner = owner
        self.token = token
        self.items_max = items_max
        self.bytes_max = bytes_max
        self._loop = asyncio.get_running_loop()
        # Those that take items, in the order of their opening, and the one that is being opened.
        self._open: list[Stream] = []
        self._opening: Stream | None = None
        # Items beyond all credit.
        self._waiting: deque[Item] = deque()
        self._not_before = 0.0
        self._renewing: asyncio.TimerHandle | None = None
        self._is_busy = False
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, item: Item) -> bool:
        """Send an item, unless no stream can be opened now."""
        self._is_busy = True
        stream = self._next_stream(item)
        if stream is not None:
            stream.put(item)
        elif self._open:
            self._waiting.append(item)
        else:
            return False
        return True

    async def close(self) -> None:
        """End all streams. Nothing is given back."""
        if self._renewing is not None:
            self._renewing.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _next_stream(self, item: Item) -> "Stream | None":
        """Return the stream for an item, which may be a new one; None: there is none with credit."""
        free = [stream for stream in self._open if stream.load < stream.credit]
        if free:
            return min(free, key=lambda stream: (stream is item.answered_by, stream.load))
        if not self._open and self._opening is None:
            self._start()
        return None if self._open else self._opening

    def _start(self) -> None:
        """Open a further stream, if this can succeed."""
        if self._opening is not None or self._loop.time() < self._not_before:
            return
        self._opening = Stream(self)
        task = self._loop.create_task(self._opening.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _renew_in(self, seconds: float) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = self._loop.call_later(seconds * random.uniform(0.75, 1.25), self._renew)

    def _renew(self) -> None:
        """Open a further stream; if there was no work, leave all of them."""
        self._renewing = None
        if not self._is_busy:
            for stream in [*self._open]:
                self.leave(stream)
            return
        self._is_busy = False
        self._start()
        self._renew_in(RENEW_S)

    # --- what streams report ------------------------------------------------

    def on_open(self, stream: "Stream") -> None:
        """Take a stream into use: its first response has come."""
        self._opening = None
        now = self._loop.time()
        older = [one for one in self._open if one.is_replaced_by(stream, now)]
        self._open.append(stream)
        for one in older:
            self.leave(one)
        if len(self._open) > STREAMS_MAX:
            self.leave(self._open[0])
        if not older:
            self._renew_in(RENEW_SOON_S)
        self.on_credit()

    def on_credit(self) -> None:
        """Send what waits, as far as there is credit."""
        while self._waiting:
            stream = self._next_stream(self._waiting[0])
            if stream is None:
                return
            item = self._waiting.popleft()
            if not item.answer.done():
                stream.put(item)

    def leave(self, stream: "Stream") -> None:
        """Send nothing more over a stream, and end it when what is in flight there is finished."""
        if stream in self._open:
            self._open.remove(stream)
        stream.leave()
        if not self._open:
            waiting, self._waiting = self._waiting, deque()
            self.resend(waiting)

    def resend(self, items: Sequence[Item]) -> None:
        """Send items that have not been sent by another stream, or give them back."""
        left = [item for item in items if not item.answer.done() and not self.put(item)]
        if left:
            self.owner.on_not_opened(left)

    def on_end(self, stream: "Stream", failure: Exception | None) -> None:
        """Give back what a stream has left."""
        if stream is self._opening:
            self._opening = None
            code = failure.code() if isinstance(failure, grpc.aio.AioRpcError) else None
            self._not_before = self._loop.time() + _reopen_in_s(code)
            self.owner.on_not_opened(stream.withdraw())
            return
        if stream in self._open:
            self._renew_in(RENEW_SOON_S)
        items = stream.withdraw()
        self.leave(stream)
        self.owner.on_break(items, failure)


class Stream:
    """One stream to a coordinator."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self.credit = CREDIT_FIRST
        self.coordinator_id = ""
        self._is_open = False
        self._is_leaving = False
        self._old_at = self._loop.time() + _age_s()
        self._call: Any = None
        self._token = ""
        self._check_at = self._loop.time() + TOKEN_CHECKED_EVERY_S
        self._last_id = 0
        self._pending: list[Item] = []
        self._in_flight: dict[int, Item] = {}
        self._cancelled_ids: list[int] = []
        # Of the task that writes, while it has nothing to do.
        self._idle: asyncio.Future[None] | None = None
        # Ends the call if the server does not: neither open it nor, once it was left, end it.
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def load(self) -> int:
        """How many items have no reply."""
        return len(self._in_flight) + len(self._pending)

    def is_replaced_by(self, other: "Stream", now: float) -> bool:
        """Return whether this stream is too old, or leads to where another one leads."""
        return self.coordinator_id == other.coordinator_id or now >= self._old_at

    def put(self, item: Item) -> None:
        item.stream, item.number = self, 0
        self._pending.append(item)
        self._wake()

    def cancel(self, item: Item) -> None:
        """Forget an item whose caller has left."""
        if item.number:
            del self._in_flight[item.number]
            self._cancelled_ids.append(item.number)
        else:
            self._pending.remove(item)
        item.stream = None
        self._wake()
        self._streams.on_credit()

    def leave(self) -> None:
        self._is_leaving = True
        self._wake()

    def withdraw(self) -> list[Item]:
        """Return the items without a reply, and forget them."""
        items = [*self._in_flight.values(), *self._pending]
        self._in_flight, self._pending = {}, []
        for item in items:
            item.stream = None
        return items

    # --- the call -------------------------------------------------------------

    async def run(self) -> None:
        """Open the stream, and read it until it ends."""
        failure: Exception | None = None
        writing: asyncio.Task[None] | None = None
        try:
            if self._streams.token is None:
                self._call = self._streams.open_call()
            else:
                self._token = self._streams.token()
                self._call = self._streams.open_call(metadata=token_metadata(self._token))
            self._alarm = self._loop.call_later(OPENING_MAX_S, self._call.cancel)
            writing = self._loop.create_task(self._write())
            writing.add_done_callback(self._on_written)
            while (response := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
                self._take(response)
        except asyncio.CancelledError:
            # The call is cancelled if writing fails, and if the server does not end a stream that was left.
            if is_cancelled():
                raise
            failure = _failure_of(writing)
        except Exception as error:  # noqa: BLE001 - the owner gets it
            failure = error
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            if self._call is not None:
                self._call.cancel()
            if writing is not None:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
        self._streams.on_end(self, failure)

    async def _write(self) -> None:
        while True:
            if self._cancelled_ids or (self._pending and len(self._in_flight) < self.credit):
                request = self._next_request()
                if request is not None:
                    failpoint("client.execute.send")
                    await self._call.write(request)
            elif self._is_leaving and not self._in_flight:
                break
            else:
                self._idle = self._loop.create_future()
                await self._idle
        await self._call.done_writing()
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(LEAVING_MAX_S, self._call.cancel)

    def _next_request(self) -> pb.StreamTransactionsRequest | None:
        """Return as much of what is pending as fits into one message; None: nothing of it is sent here."""
        if self._pending and self._loop.time() >= self._check_at and self._has_old_token():
            self._hand_over()
        now, room = self._loop.time(), self._streams.bytes_max
        items: list[pb.StreamTransactionsItem] = []
        for item in self._pending[: min(self._streams.items_max, self.credit - len(self._in_flight))]:
            room -= item.payload_bytes
            if room < 0 and items:
                break
            self._last_id += 1
            self._in_flight[self._last_id] = item
            item.number = self._last_id
            left_ms = int(min(max(1.0, (item.deadline - now) * 1000), _TIMEOUT_MAX_MS))
            items.append(
                pb.StreamTransactionsItem(id=self._last_id, timeout_ms=left_ms, transaction=item.request)
            )
        del self._pending[: len(items)]
        cancelled_ids, self._cancelled_ids = self._cancelled_ids, []
        if not items and not cancelled_ids:
            return None
        return pb.StreamTransactionsRequest(items=items, cancelled_ids=cancelled_ids)

    def _has_old_token(self) -> bool:
        """Return whether the token that this stream has shown was replaced."""
        self._check_at = self._loop.time() + TOKEN_CHECKED_EVERY_S
        return self._streams.token is not None and self._streams.token() != self._token

    def _hand_over(self) -> None:
        """Leave this stream, and send what is pending by another one."""
        pending, self._pending = self._pending, []
        self._streams.leave(self)
        self._streams.resend(pending)

    def _take(self, response: pb.StreamTransactionsResponse) -> None:
        if response.credit:
            self.credit = response.credit
        if not self._is_open:
            self._is_open = True
            if self._alarm is not None and not self._is_leaving:
                self._alarm.cancel()
            self.coordinator_id = response.coordinator_id
            self._streams.on_open(self)
        if response.draining and not self._is_leaving:
            self._hand_over()
        if response.replies:
            failpoint("client.execute.answered")
        for reply in response.replies:
            item = self._in_flight.pop(reply.id, None)
            if item is not None:  # a reply that is late or a duplicate is ignored
                item.stream, item.answered_by = None, self
                if reply.error.code == _UNAUTHENTICATED and self._has_old_token():
                    self._hand_over()
                    self._streams.resend([item])
                else:
                    self._streams.owner.on_reply(item, reply)
        if response.replies:
            self._streams.on_credit()
            if self._is_leaving or self._pending:
                self._wake()

    def _on_written(self, writing: asyncio.Task[None]) -> None:
        """End the stream if writing has failed: nothing else would notice."""
        if not writing.cancelled() and writing.exception() is not None:
            self._call.cancel()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


def _reopen_in_s(code: grpc.StatusCode | None) -> float:
    """Return when to try again, after a stream could not be opened for this reason."""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return _age_s()
    # The coordinator has as many streams as it takes. Those of clients without work are left by then.
    return RENEW_S if code is grpc.StatusCode.RESOURCE_EXHAUSTED else REOPEN_S


def _age_s() -> float:
    return AGE_MIN_S * random.uniform(1.0, 2.0)


def _failure_of(writing: asyncio.Task[None] | None) -> Exception | None:
    if writing is None or not writing.done() or writing.cancelled():
        return None
    failure = writing.exception()
    return failure if isinstance(failure, Exception) else None


def is_cancelled() -> bool:
    """Return whether the task that runs is being cancelled: not only what it awaits."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())
