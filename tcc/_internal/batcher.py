"""Batching that adapts to the load.

Items that arrive while a batch is in flight are sent together as the next batch. An
idle batcher sends an item at once; a busy one sends large batches. The client, the
participants and the coordinator's writes and calls all use it.

Where sending is quick, that alone may settle at very small batches, whose overhead
then keeps them from growing. A `FlushPolicy` prevents this: a busy batcher lingers
before the next batch. A batcher that sends single items never lingers.
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
    """Send a batch `linger_s` after the previous one, or as soon as `min_items` items wait."""

    linger_s: float = 0.0
    min_items: int = sys.maxsize


class Batcher(Generic[T]):
    """Sends items in batches, at most `max_in_flight` of them at once.

    Args:
        send: Called with 1 to `items_max` items whose sizes add up to at most `bytes_max`. A
            single larger item is sent alone. It must report results and failures to the
            items' owners. An exception from `send` is a bug: it ends `run`, which raises it.
        items_max: The largest number of items in a batch.
        bytes_max: The largest sum of the items' sizes.
        size: Returns the size of an item; 1 by default.
        max_in_flight: The largest number of batches in flight.
        flush_policy: Called whenever the batcher is about to wait. It is ignored while the
            last batch was a single item and is done, and for a full batch.
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
        # How many items must wait to wake `run`, and the event that wakes it.
        self._wanted = 1
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Return how many items wait, without those in flight."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """True if no item waits and none is in flight."""
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
        """Remove and return the items that still wait."""
        items = list(self._queue)
        self._queue.clear()
        return items

    async def run(self) -> None:
        """Send until cancelled. Batches in flight are cancelled too."""
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
        """Run in the background of the block and end with it."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _until_due(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when the next batch must be sent."""
        while True:
            self._wake.clear()
            early_s = 0.0
            if self._in_flight == self._max_in_flight:
                self._wanted = sys.maxsize  # the end of a batch wakes this task
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
