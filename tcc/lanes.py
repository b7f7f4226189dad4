"""Batches that never wait for one another's locks.

Two transactions that change the same row take turns however many run at once, and
the one that waits holds everything that it has locked already. Items that would
contend share a *lane*, and in a lane one batch has its *turn* at a time. A batch
carries whatever waits in all lanes that are free, so that lanes cost no commits:
a hot row is one lock per batch, and cold ones travel along or beside it.

A batch is sent before its turn has come: what it can do without touching what its
lanes guard it does beside the batch ahead. It is sent when that one's turn has
begun, so that there is never more than one that gets ready in a lane.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from tcc.outbox import Outbox

T = TypeVar("T")


class Turn:
    """A batch's turn in its lanes: comes when those of all earlier batches are over."""

    def __init__(
        self, earlier: Iterable["Turn"] = (), let_next_get_ready: Callable[[], None] = lambda: None
    ) -> None:
        self._earlier = earlier
        self._let_next_get_ready = let_next_get_ready
        self._begun = False
        self._over = asyncio.Event()

    async def begin(self) -> None:
        """Returns when it has come. What waits next in its lanes may get ready then. Idempotent."""
        for turn in self._earlier:
            await turn._over.wait()  # noqa: SLF001 - another of this class
        self._earlier = ()
        if not self._begun:
            self._begun = True
            self._let_next_get_ready()

    def end(self) -> None:
        """What is ready may begin. Says nothing where this turn has not begun. Idempotent."""
        if self._begun:
            self._over.set()


class LaneOutbox(Generic[T]):
    """An `Outbox` whose items each belong to a lane, sent in order within it.

    `lane` answers the same number for items that must not have their turn at once.
    `send` begins its batch's turn when it needs it, and may end it early. A turn that
    it has not begun when it returns was not needed; until then the batch has its lanes
    to itself.
    """

    def __init__(
        self,
        send: Callable[[list[T], Turn], Awaitable[None]],
        *,
        lane: Callable[[T], int],
        items_max: int,
        senders: int = 1,
    ) -> None:
        self._send = send
        self._lane = lane
        self._items_max = items_max
        # What waits in each lane that has its number in the outbox below, or that a batch keeps out of it.
        self._waiting: dict[int, deque[T]] = {}
        # The newest turn in each lane that is in flight.
        self._newest: dict[int, Turn] = {}
        self._numbers = Outbox(self._send_lanes, items_max=items_max, senders=senders)

    def put(self, item: T) -> None:
        lane = self._lane(item)
        waiting = self._waiting.get(lane)
        if waiting is not None:
            waiting.append(item)
            return
        self._waiting[lane] = deque([item])
        self._numbers.put(lane)

    def put_many(self, items: Iterable[T]) -> None:
        for item in items:
            self.put(item)

    async def run(self) -> None:
        """Sends until cancelled. What is in flight then is cancelled with it."""
        await self._numbers.run()

    async def _send_lanes(self, lanes: list[int]) -> None:
        batch: list[T] = []
        reached = 0
        while reached < len(lanes) and len(batch) < self._items_max:
            self._take(self._waiting[lanes[reached]], batch)
            reached += 1
        self._numbers.put_many(lanes[reached:])
        turn = self._turn(lanes[:reached])
        await self._send(batch, turn)
        await turn.begin()
        turn.end()
        for lane in lanes[:reached]:
            if self._newest[lane] is turn:
                del self._newest[lane]

    def _take(self, waiting: deque[T], batch: list[T]) -> None:
        while waiting and len(batch) < self._items_max:
            batch.append(waiting.popleft())

    def _turn(self, lanes: Sequence[int]) -> Turn:
        earlier = {self._newest[lane] for lane in lanes if lane in self._newest}
        turn = Turn(earlier, lambda: self._queue_again(lanes))
        self._newest.update(dict.fromkeys(lanes, turn))
        return turn

    def _queue_again(self, lanes: Iterable[int]) -> None:
        for lane in lanes:
            if self._waiting[lane]:
                self._numbers.put(lane)
            else:
                del self._waiting[lane]
