"""Events as a participant: a message is published after the decision, until the broker has accepted it.

The broker is called inside the local transaction, before its commit. So an event is published at least
once: if the process is killed in between, the coordinator repeats the call, and the event is published
again with the same id.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.events.brokers import Broker
from participants.events.envelope import SOURCE, envelope
from participants.events.publication import publish
from participants.events.requests import Publish
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
        await publish(self._broker, events, db)


def events(database: AsyncEngine, *, broker: Broker, source: str = SOURCE) -> Participant:
    """Return the participant over its database, whose schema must exist, and a started broker."""
    participant = Participant("events", database=database)
    participant.message("publish", Publish)(PublishEvent(broker, source))
    return participant
