"""Batches that form by themselves.

Whatever queues while the previous flush is in flight goes out together with the
next one: an idle outbox sends its first item at once, and a busy one sends large
batches. Every hot edge of the system is an outbox.

Where flushes are quick that alone can settle at tiny batches, each of which costs
so much CPU that none ever grows. A pace keeps a busy outbox out of that; one that
sends its items singly never waits.
"""

import asyncio
import contextlib
import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


def _one(_: object) -> int:
    return 1


class FlushPolicy(NamedTuple):
    """A batch leaves `linger_s` after the one before it, or as soon as `min_items` items wait."""

    linger_s: float = 0.0
    min_items: int = sys.maxsize


class Batcher(Generic[T]):
    """Sends what is put into it in batches, at most `max_in_flight` of them in flight.

    `send` gets a list of 1 to `items_max` items whose sizes add up to at most
    `bytes_max` (a single larger item travels alone). It answers its items'
    senders itself, failures included: an exception from `send` is a bug and
    ends the outbox, which `run` then raises.

    `flush_policy` is asked whenever the outbox is about to wait. An item that follows a single
    one which is done needs no company, and a full batch is always enough.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[None]],
        *,
        items_max: int,
        bytes_max: int = 4 * 2**20,
        size: Callable[[T], int] = _one,
        max_in_flight: int = 1,
        flush_policy: Callable[[], FlushPolicy] = FlushPolicy,
    ) -> None:
        self._send = send
        # May be changed at any time.
        self.items_max = items_max
        self._bytes_max = bytes_max
        self._size = size
        self._max_in_flight = max_in_flight
        self._flush_policy = flush_policy
        self._queue: deque[T] = deque()
        self._in_flight = 0
        self._last_sent_at = -math.inf
        self._last_was_single = True
        # Wakes `run`: how many items must wait for that, and the alarm.
        self._wanted = 1
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """How many items wait; those in flight are not among them."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self._queue and not self._in_flight

    def put(self, item: T) -> None:
        self._queue.append(item)
        if len(self._queue) >= self._wanted:
            self._wake.set()

    def put_many(self, items: Iterable[T]) -> None:
        self._queue.extend(items)
        if len(self._queue) >= self._wanted:
            self._wake.set()

    def withdraw(self) -> list[T]:
        """Take back everything that still waits."""
        items = list(self._queue)
        self._queue.clear()
        return items

    async def run(self) -> None:
        """Send until cancelled. What is in flight then is cancelled with it."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as sending:
            while True:
                await self._until_due(loop)
                batch = self._take()
                self._last_sent_at, self._last_was_single = loop.time(), len(batch) == 1
                self._in_flight += 1
                sending.create_task(self._send_batch(batch))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run beside the block and end with it."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _until_due(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when a batch is to leave."""
        while True:
            self._wake.clear()
            early_s = 0.0
            if self._in_flight == self._max_in_flight:
                self._wanted = sys.maxsize  # the end of a flight wakes us
            elif not self._queue:
                self._wanted = 1
            else:
                flush_policy = self._flush_policy()
                self._wanted = min(flush_policy.min_items, self.items_max)
                early_s = self._last_sent_at + flush_policy.linger_s - loop.time()
                goes_singly = self._last_was_single and not self._in_flight
                if early_s <= 0 or goes_singly or len(self._queue) >= self._wanted:
                    return
            alarm = loop.call_later(early_s, self._wake.set) if early_s > 0 else None
            try:
                await self._wake.wait()
            finally:
                if alarm is not None:
                    alarm.cancel()

    async def _send_batch(self, batch: list[T]) -> None:
        try:
            await self._send(batch)
        finally:
            self._in_flight -= 1
            self._wake.set()

    def _take(self) -> list[T]:
        queue, size = self._queue, self._size
        count, room = 0, self._bytes_max
        for item in islice(queue, self.items_max):
            room -= size(item)
            if room < 0 and count:
                break
            count += 1
        return [queue.popleft() for _ in range(count)]
