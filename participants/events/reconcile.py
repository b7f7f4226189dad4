"""Find the events that Redis has lost, and publish them again.

Redis confirms an entry before it is on disk. With `appendfsync everysec`, a server that is killed
loses the last second or two; one that is restored from a copy, or a replica that takes over, may lose
more. So each event is looked for once it should have been stored (`settled_after_s`), and all of them
again, as far as they are kept (`kept_for_s`), when the server has another run id.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.events import store
from participants.events.brokers import Broker, BrokerError, CheckableBroker
from participants.events.envelope import Event
from participants.events.store import Published

logger = logging.getLogger(__name__)

_CHUNK = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciliation:
    """When it runs and what it looks for, in seconds."""

    settled_after_s: float
    kept_for_s: float
    every_s: float = 1.0


@asynccontextmanager
async def reconciling(
    broker: Broker, reconciliation: Reconciliation, database: AsyncEngine
) -> AsyncIterator[None]:
    """Keep the broker connected during the block, and reconcile it if it can be asked."""
    await broker.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            if isinstance(broker, CheckableBroker):
                job = tasks.create_task(_run(broker, reconciliation, database))
                yield
                job.cancel()
            else:
                yield
    finally:
        await broker.close()


async def _run(broker: CheckableBroker, reconciliation: Reconciliation, database: AsyncEngine) -> None:
    run_id = ""
    while True:
        try:
            run_id = await check_run(broker, database, known=run_id)
            await reconcile(broker, reconciliation, database, now_ms=time.time_ns() // 1_000_000)
        except (BrokerError, DBAPIError) as error:
            logger.warning("events are reconciled later: %s", error)
        await asyncio.sleep(reconciliation.every_s)


async def check_run(broker: CheckableBroker, database: AsyncEngine, *, known: str) -> str:
    """Return the server's run id. If it is another one, everything has to be checked again."""
    run_id = await broker.run_id()
    if run_id != known:
        async with database.begin() as db:
            await store.uncheck_all(db)
    return run_id


async def reconcile(
    broker: CheckableBroker, reconciliation: Reconciliation, database: AsyncEngine, *, now_ms: int
) -> int:
    """Publish again what the broker has lost; return how many events that were.

    Raises:
        BrokerError, DBAPIError: The broker or the database is unavailable. Run it again.
    """
    settled_ms = now_ms - int(reconciliation.settled_after_s * 1000)
    published_again, is_more = 0, True
    while is_more:
        async with database.begin() as db:
            events = await store.unchecked(db, before_ms=settled_ms, limit=_CHUNK)
            published_again += await _reconcile_chunk(broker, events, db, now_ms=now_ms)
        is_more = len(events) == _CHUNK
    async with database.begin() as db:
        await store.purge(db, before_ms=now_ms - int(reconciliation.kept_for_s * 1000))
    if published_again:
        logger.warning("%d events were lost by the broker and published again", published_again)
    return published_again


async def _reconcile_chunk(
    broker: CheckableBroker, events: list[Published], db: AsyncConnection, *, now_ms: int
) -> int:
    if not events:
        return 0
    missing = await broker.find_missing(events)
    numbers = {each.number for each in missing}
    await store.set_checked(db, [each.number for each in events if each.number not in numbers])
    if missing:
        positions = await broker.publish(
            [Event(each.event_id, each.topic, each.event_id, each.body) for each in missing]
        )
        moved = [each._replace(position=position) for each, position in zip(missing, positions, strict=True)]
        await store.move(db, moved, now_ms=now_ms)
    return len(missing)
