"""Batches that never wait for one another's locks.

Two transactions that change the same row take turns however many run at once, and
the one that waits holds everything that it has locked already. Items that would
contend share a *lane*, and a lane is in at most one batch at a time. A batch
carries whatever waits in all lanes that are free, so that lanes cost no commits:
a hot row is one lock per batch, and cold ones travel along or beside it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from tcc._internal.batcher import Batcher

T = TypeVar("T")


class PartitionedBatcher(Generic[T]):
    """A `Batcher` whose items each belong to a lane, sent in order within it.

    `partition` answers the same number for items that must not be in flight at once.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[None]],
        *,
        partition_key: Callable[[T], int],
        items_max: int,
        max_in_flight: int = 1,
    ) -> None:
        self._send = send
        self._partition_key = partition_key
        self._items_max = items_max
        # The lanes that are in flight or have a turn coming, with what waits in each.
        self._waiting: dict[int, deque[T]] = {}
        self._turns = Batcher(self._send_partitions, items_max=items_max, max_in_flight=max_in_flight)

    def put(self, item: T) -> None:
        partition = self._partition_key(item)
        waiting = self._waiting.get(partition)
        if waiting is not None:
            waiting.append(item)
            return
        self._waiting[partition] = deque([item])
        self._turns.put(partition)

    def put_many(self, items: Iterable[T]) -> None:
        for item in items:
            self.put(item)

    async def run(self) -> None:
        """Send until cancelled. What is in flight then is cancelled with it."""
        await self._turns.run()

    async def _send_partitions(self, partitions: list[int]) -> None:
        batch: list[T] = []
        reached = 0
        while reached < len(partitions) and len(batch) < self._items_max:
            self._take(self._waiting[partitions[reached]], batch)
            reached += 1
        self._turns.put_many(partitions[reached:])
        await self._send(batch)
        for partition in partitions[:reached]:
            self._end_turn(partition)

    def _take(self, waiting: deque[T], batch: list[T]) -> None:
        while waiting and len(batch) < self._items_max:
            batch.append(waiting.popleft())

    def _end_turn(self, partition: int) -> None:
        if self._waiting[partition]:
            self._turns.put(partition)
        else:
            del self._waiting[partition]
