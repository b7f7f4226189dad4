"""Events in Redis Streams, by redis-py: FastStream would put them into a format of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError, ResponseError

from participants.events.brokers import BrokerError
from participants.events.envelope import Event
from participants.events.store import Published
from participants.redis_client import connect

# An entry's fields.
ID, EVENT = "id", "event"
TIMEOUT_S = 5.0


def stream_of(topic: str) -> str:
    """Return the key of a topic's stream. The prefix keeps initiators from all other keys."""
    return f"events:{topic}"


class RedisStreams:
    """A Redis server. Its positions are the ids of entries."""

    def __init__(self, url: str, *, entries_max: int) -> None:
        self._redis = connect(url, timeout_s=TIMEOUT_S)
        self._entries_max = entries_max

    async def start(self) -> None:
        """Connect when the first event is published: Redis may start later."""

    async def publish(self, events: Sequence[Event]) -> list[str]:
        pipeline = self._redis.pipeline(transaction=False)
        for event in events:
            fields: dict[Any, Any] = {ID: event.event_id, EVENT: event.body}
            pipeline.xadd(stream_of(event.topic), fields, maxlen=self._entries_max, approximate=True)
        with _broker_errors():
            return [position.decode() for position in await pipeline.execute()]

    async def close(self) -> None:
        await self._redis.aclose()

    async def run_id(self) -> str:
        with _broker_errors():
            return str((await self._redis.info("server"))["run_id"])

    async def find_missing(self, published: Sequence[Published]) -> list[Published]:
        with _broker_errors():
            return await self._find_missing(published)

    async def _find_missing(self, published: Sequence[Published]) -> list[Published]:
        pipeline = self._redis.pipeline(transaction=False)
        for each in published:
            pipeline.xrange(stream_of(each.topic), each.position, each.position)
        found = await pipeline.execute()
        absent = [
            each
            for each, entries in zip(published, found, strict=True)
            if not any(fields.get(ID.encode()) == each.event_id.encode() for _, fields in entries)
        ]
        # Read after the entries: what is trimmed in between is then known to be trimmed.
        trimmed_before = {topic: await self._trimmed_before(topic) for topic in {e.topic for e in absent}}
        return [each for each in absent if _place(each.position) >= trimmed_before[each.topic]]

    async def _trimmed_before(self, topic: str) -> tuple[int, int]:
        """Return the place of the first entry of a stream that was trimmed; otherwise the first place."""
        try:
            stream = await self._redis.xinfo_stream(stream_of(topic))
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            return (0, 0)
        if stream["entries-added"] == stream["length"] or not stream["first-entry"]:
            return (0, 0)
        return _place(stream["first-entry"][0].decode())


def _place(position: str) -> tuple[int, int]:
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number)


@contextmanager
def _broker_errors() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise BrokerError(f"Redis: {error}") from error
