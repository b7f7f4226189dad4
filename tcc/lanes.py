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

from tcc.outbox import Outbox

T = TypeVar("T")


class LaneOutbox(Generic[T]):
    """An `Outbox` whose items each belong to a lane, sent in order within it.

    `lane` answers the same number for items that must not be in flight at once.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[None]],
        *,
        lane: Callable[[T], int],
        items_max: int,
        senders: int = 1,
    ) -> None:
        self._send = send
        self._lane = lane
        self._items_max = items_max
        # The lanes that are in flight or have a turn coming, with what waits in each.
        self._waiting: dict[int, deque[T]] = {}
        self._turns = Outbox(self._send_lanes, items_max=items_max, senders=senders)

    def put(self, item: T) -> None:
        lane = self._lane(item)
        waiting = self._waiting.get(lane)
        if waiting is not None:
            waiting.append(item)
            return
        self._waiting[lane] = deque([item])
        self._turns.put(lane)

    def put_many(self, items: Iterable[T]) -> None:
        for item in items:
            self.put(item)

    async def run(self) -> None:
        """Sends until cancelled. What is in flight then is cancelled with it."""
        await self._turns.run()

    async def _send_lanes(self, lanes: list[int]) -> None:
        batch: list[T] = []
        reached = 0
        while reached < len(lanes) and len(batch) < self._items_max:
            self._take(self._waiting[lanes[reached]], batch)
            reached += 1
        self._turns.put_many(lanes[reached:])
        await self._send(batch)
        for lane in lanes[:reached]:
            self._end_turn(lane)

    def _take(self, waiting: deque[T], batch: list[T]) -> None:
        while waiting and len(batch) < self._items_max:
            batch.append(waiting.popleft())

    def _end_turn(self, lane: int) -> None:
        if self._waiting[lane]:
            self._turns.put(lane)
        else:
            del self._waiting[lane]
