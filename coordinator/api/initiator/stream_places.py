"""The places of open streams: a few, since each stream may be receiving a message as large as any.

If all are taken, a further stream gets the place of another one, which ends:

- Each *holder* of streams has an equal share of the places: a client, or without identities the host
  that a stream comes from. A holder with less than its share gets a place of the one that has most.
- Otherwise a stream gives way that has been idle for a while, if its holder has more than its share or
  asks itself. So those who open streams and leave them idle keep no place that another one needs.

A stream that ends costs its client no failed call: what has no reply there is repeated with its gid.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Generic, Protocol, TypeVar

from coordinator.core.errors import Overloaded

# A stream that has been idle for this long gives way.
IDLE_S = 5.0
# By then it has ended, or its place is not given away. Clients wait a little longer for their stream.
ENDED_IN_S = 2.0
# A client that gets no place does so for as long.
_RETRY_AFTER_S = 1.0


class Occupant(Protocol):
    """An open stream."""

    @property
    def holder(self) -> str:
        """Whose it is."""

    @property
    def idle_since(self) -> float:
        """Since when no transaction waits for its reply, by the loop's clock; infinite: some do."""


class Ending(Occupant, Protocol):
    """An open stream that can be ended."""

    def give_way(self) -> None:
        """End soon. May be called again."""


Some = TypeVar("Some", bound=Occupant)
Stream = TypeVar("Stream", bound=Ending)


def gives_way(streams: Collection[Some], holder: str, *, most: int, now: float) -> Some | None:
    """Return the stream whose place goes to a further stream of `holder`; None: none gives way.

    `most`: how many places there are. `streams`: those that have them, in the order of their opening.
    """
    held = Counter(stream.holder for stream in streams)
    share = max(1, most // len({holder, *held}))
    has_less = held[holder] < share
    if has_less:
        largest, count = max(held.items(), key=lambda item: item[1], default=("", 0))
        if count > share:
            return min((one for one in streams if one.holder == largest), key=_idle_since)
    idle = [
        one
        for one in streams
        if now - one.idle_since >= IDLE_S and (has_less or one.holder == holder or held[one.holder] > share)
    ]
    return min(idle, key=_idle_since, default=None)


def _idle_since(stream: Occupant) -> float:
    return stream.idle_since


class StreamPlaces(Generic[Stream]):
    """The places of one server's streams."""

    def __init__(self, most: int) -> None:
        self._most = most
        # In the order of their opening.
        self._streams: dict[Stream, None] = {}
        # By the stream that gives way: the one that gets its place, and what is done then.
        self._successors: dict[Stream, tuple[Stream, asyncio.Future[None]]] = {}

    def __iter__(self) -> Iterator[Stream]:
        return iter([*self._streams])

    async def take(self, stream: Stream) -> None:
        """Give a stream a place, until it leaves.

        Raises:
            Overloaded: there is none.
        """
        if len(self._streams) < self._most:
            self._streams[stream] = None
            return
        staying = [one for one in self._streams if one not in self._successors]
        loop = asyncio.get_running_loop()
        ending = gives_way(staying, stream.holder, most=self._most, now=loop.time())
        if ending is None:
            raise _overloaded()
        ended = loop.create_future()
        self._successors[ending] = stream, ended
        ending.give_way()
        try:
            async with asyncio.timeout(ENDED_IN_S):
                await ended
        except TimeoutError:
            raise _overloaded() from None
        finally:
            self._successors.pop(ending, None)

    def leave(self, stream: Stream) -> None:
        """Free the place of a stream, if it has one."""
        self._streams.pop(stream, None)
        successor, ended = self._successors.pop(stream, (None, None))
        if successor is not None and ended is not None and not ended.done():
            self._streams[successor] = None
            ended.set_result(None)


def _overloaded() -> Overloaded:
    return Overloaded("too many streams are open", retry_after_s=_RETRY_AFTER_S)
