"""Publish events, and write down where they are if the broker may lose them."""

import time
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from participants.events import store
from participants.events.brokers import Broker
from participants.events.envelope import Event
from participants.events.store import Published


async def publish(broker: Broker, events: Sequence[Event], db: AsyncConnection) -> None:
    """Publish events before the commit of `db`: at least once.

    Raises:
        BrokerError: The broker is unavailable, or refused. Some may be published.
    """
    positions = await broker.publish(events)
    if positions:
        rows = [
            Published(event.event_id, event.topic, position, event.body)
            for event, position in zip(events, positions, strict=True)
        ]
        await store.write(db, rows, now_ms=time.time_ns() // 1_000_000)
