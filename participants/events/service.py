"""Events as a participant: a message is published after the decision, until the broker has accepted it.

The broker is called inside the local transaction, before its commit. So an event is published at least
once: if the process is killed in between, the coordinator repeats the call, and the event is published
again with the same id.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.events import store
from participants.events.brokers import Broker
from participants.events.envelope import SOURCE, envelope
from participants.events.requests import Publish
from participants.events.store import Published
from tcc import Branch, Participant

Items = Sequence[tuple[Branch, Publish]]


class PublishEvent:
    """The action `publish`."""

    def __init__(self, broker: Broker, source: str) -> None:
        self._broker = broker
        self._source = source

    async def deliver_batch(self, items: Items, db: AsyncConnection) -> None:
        at = datetime.now(UTC)
        events = [envelope(branch, request, source=self._source, at=at) for branch, request in items]
        positions = await self._broker.publish(events)
        if positions:
            rows = [
                Published(event.event_id, event.topic, position, event.body)
                for event, position in zip(events, positions, strict=True)
            ]
            await store.write(db, rows, now_ms=time.time_ns() // 1_000_000)


def events(database: AsyncEngine, *, broker: Broker, source: str = SOURCE) -> Participant:
    """Return the participant over its database, whose schema must exist, and a started broker."""
    participant = Participant("events", database=database)
    participant.message("publish", Publish)(PublishEvent(broker, source))
    return participant
