"""Batching that avoids lock waits between batches.

Two database transactions that change the same row run one after the other, and the
waiting one holds every lock that it already has. Items that would contend therefore share a
*partition*, and a partition is in at most one batch at a time. A batch takes items from
all free partitions, so partitions cost no extra commits: a hot row is locked once per
batch, and other rows are changed in the same batch or in one that runs at the same time.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from tcc._internal.batcher import Batcher

T = TypeVar("T")


class PartitionedBatcher(Generic[T]):
    """A `Batcher` whose items each belong to a partition. Within a partition they are sent in order.

    Args:
        send: As in `Batcher`.
        partition_key: Returns the same number for items that must not be in flight at once.
        items_max: As in `Batcher`.
        max_in_flight: As in `Batcher`.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Coroutine[Any, Any, None]],
        *,
        partition_key: Callable[[T], int],
        items_max: int,
        max_in_flight: int = 1,
    ) -> None:
        self._send = send
        self._partition_key = partition_key
        self._items_max = items_max
        # The partitions that are in flight or queued, with the items that wait in each.
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
        """Send until cancelled. Batches in flight are cancelled too."""
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
