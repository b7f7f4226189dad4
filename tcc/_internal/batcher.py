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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

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
            items' owners. It returns the coroutine that sends them, a future that is done when
            they have ended, or None if nothing is to be sent. An exception from it, the coroutine
            or the future is a bug: it ends `run`, which raises it.
        items_max: The largest number of items in a batch. 0: nothing is sent until it is changed.
        bytes_max: The largest sum of the items' sizes.
        size: Returns the size of an item; 1 by default.
        max_in_flight: The largest number of batches in flight.
        counted_s: After this time, a batch in flight is no longer counted.
        flush_policy: Called whenever the batcher is about to wait. It is ignored while the
            last batch was a single item and is done, and for a full batch.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Coroutine[Any, Any, None] | asyncio.Future[None] | None],
        *,
        items_max: int,
        bytes_max: int = 4 * 2**20,
        size: Callable[[T], int] = _one,
        max_in_flight: int = 1,
        counted_s: float = math.inf,
        flush_policy: Callable[[], FlushPolicy] = FlushPolicy,
    ) -> None:
        self._send = send
        # Read only: see `change_items_max`.
        self.items_max = items_max
        self._bytes_max = bytes_max
        self._size = size
        self._max_in_flight = max_in_flight
        self._counted_s = counted_s
        self._flush_policy = flush_policy
        self._queue: deque[T] = deque()
        # The batches in flight in the order in which they were sent, and until when each is counted.
        self._in_flight: dict[asyncio.Future[None], float] = {}
        self._last_sent_at = -math.inf
        self._last_was_single = True
        # How many items must wait to flush. While that is about to happen anyway, more than any number.
        self._wanted = sys.maxsize
        self._alarm: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """Return how many items wait, without those in flight."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """True if no item waits and none is in flight."""
        return not self._queue and not self._in_flight

    def change_items_max(self, items_max: int) -> None:
        """Change the largest number of items in a batch."""
        was_stopped, self.items_max = not self.items_max, items_max
        if was_stopped and self._queue:
            self._flush_soon()

    def put(self, item: T) -> None:
        self._queue.append(item)
        if len(self._queue) >= self._wanted:
            self._flush_soon()

    def put_many(self, items: Iterable[T]) -> None:
        self._queue.extend(items)
        if len(self._queue) >= self._wanted:
            self._flush_soon()

    def withdraw(self) -> list[T]:
        """Remove and return the items that still wait."""
        items = list(self._queue)
        self._queue.clear()
        return items

    async def run(self) -> None:
        """Send until cancelled. Batches in flight are cancelled too."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        try:
            self._flush()
            await self._ended
        finally:
            await _cancel(list(self._in_flight))

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

    def _flush_soon(self) -> None:
        """Flush after what runs now, whose items join."""
        if self._loop is not None:
            self._wanted = sys.maxsize
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Start the batches that are due. Schedule the next flush."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._ended.done():
            return
        try:
            while self._queue:
                if not self._is_due():
                    return
                self._start(self._take())
        except Exception as error:  # noqa: BLE001 - `run` raises it
            self._ended.set_exception(error)
        self._wanted = 1

    def _is_due(self) -> bool:
        """Return whether a batch must be sent now. If not, set what causes the next flush."""
        assert self._loop is not None
        waiting, now = len(self._queue), self._loop.time()
        counted_until = self._counted_until(now) if self._in_flight else []
        if len(counted_until) >= self._max_in_flight or not self.items_max:
            self._wanted = sys.maxsize  # the end of a batch, or a change of `items_max`
            self._alarm_at(min(counted_until, default=math.inf))
            return False
        if self._last_was_single and not counted_until:
            return True
        flush_policy = self._flush_policy()
        wanted = min(flush_policy.min_items, self.items_max)
        due_at = self._last_sent_at + flush_policy.linger_s
        if now >= due_at or waiting >= wanted:
            return True
        self._wanted = wanted
        self._alarm_at(min([due_at, *counted_until]))
        return False

    def _counted_until(self, now: float) -> list[float]:
        """Return until when each batch in flight is counted that is counted now."""
        newest = islice(reversed(self._in_flight.values()), self._max_in_flight)
        return [until for until in newest if until > now]

    def _alarm_at(self, moment: float) -> None:
        """Flush then, unless it happens before."""
        assert self._loop is not None
        if moment < math.inf:
            self._alarm = self._loop.call_at(moment, self._flush)

    def _start(self, batch: list[T]) -> None:
        assert self._loop is not None
        self._last_sent_at, self._last_was_single = self._loop.time(), len(batch) == 1
        sending = self._send(batch)
        if sending is None:
            return
        flight = sending if isinstance(sending, asyncio.Future) else self._loop.create_task(sending)
        self._in_flight[flight] = self._last_sent_at + self._counted_s
        flight.add_done_callback(self._on_done)

    def _on_done(self, flight: asyncio.Future[None]) -> None:
        del self._in_flight[flight]
        if self._ended.done():
            return
        error = None if flight.cancelled() else flight.exception()
        if error is not None:
            self._ended.set_exception(error)
        elif self._queue:
            self._flush()
        else:
            self._wanted = 1

    def _take(self) -> list[T]:
        queue, size = self._queue, self._size
        if len(queue) == 1:
            return [queue.popleft()]
        count, room = 0, self._bytes_max
        for item in islice(queue, self.items_max):
            room -= size(item)
            if room < 0 and count:
                break
            count += 1
        return [queue.popleft() for _ in range(count)]


async def _cancel(flights: Sequence[asyncio.Future[None]]) -> None:
    """Cancel batches in flight. Raise the exception of one that fails at that."""
    if not flights:
        return
    for flight in flights:
        flight.cancel()
    await asyncio.wait(flights)
    for flight in flights:
        if not flight.cancelled():
            flight.result()
