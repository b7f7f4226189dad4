"""A consumer of a group on a Redis stream: at least once, in no particular order.

An entry is acknowledged after its handler has returned, so after the commit of what it did. What a
consumer leaves pending, because it died or its handler failed, is claimed by any consumer of the group
after `claim_after_s`. An entry that was delivered `attempts_max` times in vain goes to the dead-letter
stream.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from tcc.barrier.failures import error_text

logger = logging.getLogger(__name__)

# Not the fault of an entry: the server, or the schema and the rights that it has.
_UNAVAILABLE = (RedisError, OperationalError, InterfaceError, ProgrammingError)


class Entry(NamedTuple):
    """An entry of a stream."""

    position: bytes
    fields: dict[bytes, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscription:
    """What is consumed by whom, and how patiently."""

    stream: str
    group: str
    # Of the living consumers, each has another name. One that returns keeps its name.
    consumer: str
    batch: int = 32
    # Longer than any handler takes: a slow one would be run twice at a time.
    claim_after_s: float = 30.0
    attempts_max: int = 5
    # How long to wait for new entries, and before another try when Redis or the database is unavailable.
    pause_s: float = 1.0
    dead_entries_max: int = 100_000

    @property
    def dead_stream(self) -> str:
        return f"{self.stream}:dead"


class Consumer:
    """One consumer of a group. The handler gets the field `event` of each entry."""

    def __init__(
        self,
        redis: Redis,
        subscription: Subscription,
        handle: Callable[[bytes], Awaitable[None]],
        database: AsyncEngine,
    ) -> None:
        self._redis = redis
        self._subscription = subscription
        self._handle = handle
        self._database = database
        self._claim_from: Any = "0-0"

    async def run(self) -> None:
        """Consume until cancelled. A cancelled handler's entry stays pending."""
        task = asyncio.current_task()
        assert task is not None
        # A driver may turn the cancellation into an error of its own.
        while not task.cancelling():
            try:
                await self.join()
                while not task.cancelling():
                    await self.step()
            except _UNAVAILABLE as error:
                logger.warning("consumption pauses: %s", error_text(error))
                await asyncio.sleep(self._subscription.pause_s)

    async def join(self) -> None:
        """Create the group if it is not there, with all entries still to be delivered."""
        wanted = self._subscription
        try:
            await self._redis.xgroup_create(wanted.stream, wanted.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def step(self) -> None:
        """Claim and read some entries, and handle them."""
        # A delivery counts as an attempt. While no handler can succeed, nothing is delivered.
        async with self._database.connect() as db:
            await db.execute(select(1))
        await self._handle_all(await self._claim())
        await self._handle_all(await self._read())

    async def _claim(self) -> list[Entry]:
        """Claim what others left pending, and what failed here; return what may be tried again."""
        wanted = self._subscription
        self._claim_from, found, deleted = await self._redis.xautoclaim(
            wanted.stream,
            wanted.group,
            wanted.consumer,
            min_idle_time=int(wanted.claim_after_s * 1000),
            start_id=self._claim_from,
            count=wanted.batch,
        )
        if deleted:
            logger.error("%d entries were trimmed before they were acknowledged: %s", len(deleted), deleted)
        claimed = [Entry(*each) for each in found]
        deliveries = await self._deliveries(claimed)
        exhausted = [each for each in claimed if deliveries[each.position] > wanted.attempts_max]
        for each in exhausted:
            await self._give_up(each)
        return [each for each in claimed if each not in exhausted]

    async def _deliveries(self, entries: Sequence[Entry]) -> dict[bytes, int]:
        """Return how often each entry was delivered, this time included."""
        wanted = self._subscription
        pipeline = self._redis.pipeline(transaction=False)
        for each in entries:
            pipeline.xpending_range(wanted.stream, wanted.group, each.position, each.position, 1)
        return {entry["message_id"]: entry["times_delivered"] for [entry] in await pipeline.execute()}

    async def _give_up(self, entry: Entry) -> None:
        """Move an entry to the dead-letter stream."""
        wanted = self._subscription
        pipeline = self._redis.pipeline(transaction=True)
        fields: dict[Any, Any] = {**entry.fields, "stream": wanted.stream, "position": entry.position}
        pipeline.xadd(wanted.dead_stream, fields, maxlen=wanted.dead_entries_max, approximate=True)
        pipeline.xack(wanted.stream, wanted.group, entry.position)
        await pipeline.execute()
        logger.error("%s was tried %d times: dead", entry.position, wanted.attempts_max)

    async def _read(self) -> list[Entry]:
        wanted = self._subscription
        found: Any = await self._redis.xreadgroup(
            wanted.group,
            wanted.consumer,
            {wanted.stream: ">"},
            count=wanted.batch,
            block=int(wanted.pause_s * 1000),
        )
        return [Entry(*each) for _, entries in found for each in entries]

    async def _handle_all(self, entries: Sequence[Entry]) -> None:
        ended = await asyncio.gather(*map(self._handle_one, entries), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _handle_one(self, entry: Entry) -> None:
        try:
            await self._handle(entry.fields.get(b"event", b""))
        except _UNAVAILABLE:
            raise
        except Exception as error:  # noqa: BLE001 - a handler may raise anything; it is tried again
            logger.warning("%s failed: %s", entry.position, error_text(error))
            return
        await self._redis.xack(self._subscription.stream, self._subscription.group, entry.position)
