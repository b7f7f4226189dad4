"""Batches that form by themselves.

Whatever queues while the previous flush is in flight goes out together with the
next one: an idle outbox sends its first item at once, and a busy one sends large
batches. Every hot edge of the system is an outbox.

Where flushes are quick that alone can settle at tiny batches, each of which costs
so much CPU that none ever grows. `pace_s` keeps a busy outbox out of that; one
that sends its items singly never waits.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def _one(_: object) -> int:
    return 1


class Outbox(Generic[T]):
    """Sends what is put into it in batches, at most `senders` of them in flight.

    `send` gets a list of 1 to `items_max` items whose sizes add up to at most
    `bytes_max` (a single larger item travels alone). It answers its items'
    senders itself, failures included: an exception from `send` is a bug and
    ends the outbox, which `run` then raises.

    `pace_s`: a sender that has sent more than one item starts its next batch no
    sooner than this many seconds after it started that one, unless a full batch
    waits already.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[None]],
        *,
        items_max: int,
        bytes_max: int = 4 * 2**20,
        size: Callable[[T], int] = _one,
        senders: int = 1,
        pace_s: float = 0.0,
    ) -> None:
        self._send = send
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._size = size
        self._senders = senders
        self._pace_s = pace_s
        self._queue: deque[T] = deque()
        self._filled = asyncio.Event()
        self._sending = 0

    def __len__(self) -> int:
        """How many items wait; those in flight are not among them."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self._queue and not self._sending

    def put(self, item: T) -> None:
        self._queue.append(item)
        self._filled.set()

    def put_many(self, items: Iterable[T]) -> None:
        self._queue.extend(items)
        if self._queue:
            self._filled.set()

    def withdraw(self) -> list[T]:
        """Takes back everything that still waits."""
        items = list(self._queue)
        self._queue.clear()
        return items

    async def run(self) -> None:
        """Sends until cancelled. What is in flight then is cancelled with it."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(self._senders):
                senders.create_task(self._run_sender())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs beside the block and ends with it."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run_sender(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            batch = self._take()
            started_at = now()
            self._sending += 1
            try:
                await self._send(batch)
            finally:
                self._sending -= 1
            early_s = started_at + self._pace_s - now()
            if early_s > 0 and len(batch) > 1 and len(self._queue) < self._items_max:
                await asyncio.sleep(early_s)

    def _take(self) -> list[T]:
        queue, size = self._queue, self._size
        batch = [queue.popleft()]
        room = self._bytes_max - size(batch[0])
        while queue and len(batch) < self._items_max:
            room -= size(queue[0])
            if room < 0:
                break
            batch.append(queue.popleft())
        return batch
