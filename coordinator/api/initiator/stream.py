"""One open stream of an initiator: its items in flight, and the replies that wait to be sent.

The calls of other methods end on their own. A stream does not, so what is checked once per call elsewhere
is checked for each item here, or for each request that brings items. A stream ends when the client has
half-closed it and every item has its reply, or when it is too old.
"""

import asyncio
import math
from collections.abc import Callable

from google.protobuf.message import DecodeError

from coordinator.api.calls import UnreadBytes
from coordinator.api.initiator.batch import Item, Replies
from coordinator.api.initiator.requests import RequestLimits
from coordinator.core.errors import Draining, InvalidRequest, Overloaded, Refused, TransactionTooLarge
from tcc._internal.frames import item_id
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

# Then the client is asked to open another one: by then the certificates and the coordinators may be others.
AGE_MAX_S = 900.0
# How long a client above its rate is not read at most: it may have fewer calls than one a second.
PAUSE_MAX_S = 1.0
# How long it may take for that.
LEAVING_MAX_S = 60.0
# A client whose stream gave way repeats what has no reply after this time.
_RETRY_AFTER_S = 0.05
# What a transaction has as an item, besides itself: id, timeout and lengths.
_ITEM_BYTES = 64


def _nothing() -> None:
    """Do nothing."""


class StreamItem(Item):
    """One transaction of a stream."""

    __slots__ = ("_stream", "gid", "has_timeout", "id", "late_at")

    def __init__(self, stream: "TransactionStream", item_id: int, gid: str) -> None:
        super().__init__(stream.replies)
        self._stream = stream
        self.id = item_id
        self.gid = gid
        # When it is answered if nothing else has answered it.
        self.late_at = math.inf
        self.has_timeout = False

    def began(self, gid: str, reply_in_s: float, *, has_timeout: bool) -> None:
        """Note the gid, which may be new, and by when the item is to be answered."""
        self.gid = gid
        self.has_timeout = has_timeout
        self._stream.expect(self, reply_in_s)

    def leave(self) -> None:
        """Need no reply any more."""
        self._answered = True

    def _answer(self, outcome: pb.TransactionOutcome | None, error: common.Error | None, size: int) -> None:
        self._stream.reply(pb.StreamTransactionsReply(id=self.id, outcome=outcome, error=error), size)


class TransactionStream:
    """The state of one stream. All its methods belong to one event loop."""

    def __init__(
        self,
        unread: UnreadBytes,
        *,
        credit: int,
        on_late: Callable[[StreamItem], None] = lambda _: None,
        holder: str = "",
        on_give_way: Callable[[], None] = _nothing,
    ) -> None:
        """`credit`: how many items may be in flight. No more are read until some of them are answered.

        `on_late`: called with each item that has no reply shortly before its caller leaves. `holder`: whose
        stream it is. `on_give_way`: called when its place is to be another's.
        """
        self.holder = holder
        self.replies: Replies[pb.StreamTransactionsReply] = Replies(unread)
        # Those without a reply, by id.
        self.items: dict[int, StreamItem] = {}
        self._credit = credit
        self._on_late = on_late
        # One timer for all items: it is set for the earliest, and most of them are answered long before.
        self._late_at = math.inf
        self._late: asyncio.TimerHandle | None = None
        # Items that were read, and whose replies were not taken to be sent.
        self._outstanding = 0
        self._room = asyncio.Event()
        self._is_draining = False
        self._was_asked_to_leave = False
        self._on_give_way = on_give_way
        # Why it ends without an end of its items.
        self._ends_for: Refused | None = None
        self._failure: BaseException | None = None
        # The client sends nothing more.
        self._is_read = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()
        self._alarms = [
            self._loop.call_later(AGE_MAX_S, self.drain),
            self._loop.call_later(AGE_MAX_S + LEAVING_MAX_S, self._end),
        ]

    @property
    def idle_since(self) -> float:
        """Since when no item waits for its reply, by the loop's clock; infinite: some do."""
        return math.inf if self._outstanding else self._active_at

    # --- what the client sends ----------------------------------------------

    def start(self, reading: asyncio.Task[None]) -> None:
        """Watch the task that reads the stream."""
        reading.add_done_callback(self._on_read)
        self.watch(reading)

    def watch(self, task: asyncio.Task[None]) -> None:
        """Let the stream fail if this task of it fails, and end the task with the stream."""
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    async def until_room(self) -> None:
        """Wait until further items may be read."""
        while self._outstanding >= self._credit:
            self._room.clear()
            await self._room.wait()

    async def pause(self, wait_s: float) -> None:
        """Read nothing for a while: the client sends more than it may, and refusals cost time as well."""
        await asyncio.sleep(min(wait_s, PAUSE_MAX_S))

    def begin(self, item: StreamItem) -> None:
        """Count an item that was read."""
        self.items[item.id] = item
        self._outstanding += 1

    def expect(self, item: StreamItem, reply_in_s: float) -> None:
        """Answer an item within this time."""
        item.late_at = self._loop.time() + reply_in_s
        if item.late_at < self._late_at:
            self._set_timer(item.late_at)

    def cancel(self, item_id: int) -> str | None:
        """Forget an item whose caller has left; return its gid unless it is answered."""
        item = self.items.pop(item_id, None)
        if item is None:
            return None
        item.leave()
        self._release(1)
        return item.gid

    def _set_timer(self, at: float) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late_at = at
        self._late = None if at == math.inf else self._loop.call_at(at, self._answer_late)

    def _answer_late(self) -> None:
        now = self._loop.time()
        late = [item for item in self.items.values() if item.late_at <= now]
        for item in late:
            item.late_at = math.inf
            self._on_late(item)
        self._set_timer(min((item.late_at for item in self.items.values()), default=math.inf))

    # --- what the client gets -------------------------------------------------

    def reply(self, reply: pb.StreamTransactionsReply, size: int) -> None:
        """Answer an item with a reply of about `size` bytes."""
        self.items.pop(reply.id, None)
        self.replies.add(reply, size)

    async def take(self) -> pb.StreamTransactionsResponse | None:
        """Return what is to be sent next; None: nothing more.

        Raises:
            Refused: the stream has to end.
        """
        while True:
            replies = await self.replies.take()
            if self._failure is not None:
                raise self._failure
            if self._ends_for is not None:
                raise self._ends_for
            if replies or self._is_draining is not self._was_asked_to_leave:
                self._was_asked_to_leave = self._is_draining
                self._release(len(replies))
                return pb.StreamTransactionsResponse(replies=replies, draining=self._is_draining)
            if self._is_read and not self._outstanding:
                return None

    def drain(self) -> None:
        """Ask the client to send no further items here."""
        self._is_draining = True
        self.replies.wake()

    def give_way(self) -> None:
        """End: another stream needs the place."""
        self._end_for(
            Overloaded("another client needs the place of this stream", retry_after_s=_RETRY_AFTER_S)
        )
        self._on_give_way()

    def close(self) -> None:
        """Drop what is left: the client is gone, or does not read."""
        self._on_give_way = _nothing  # it holds the call
        for alarm in self._alarms:
            alarm.cancel()
        self._set_timer(math.inf)
        for task in self._tasks:
            task.cancel()
        self.replies.close()
        self.replies.release_sent()

    def _release(self, count: int) -> None:
        self._outstanding -= count
        self._active_at = self._loop.time()
        self._room.set()
        if self._is_read and not self._outstanding:
            self.replies.wake()

    def _end(self) -> None:
        self._end_for(Draining("the stream has come of age: open another one", retry_after_s=0.0))

    def _end_for(self, reason: Refused) -> None:
        self._ends_for = reason
        self.replies.wake()

    def _on_read(self, _: asyncio.Task[None]) -> None:
        self._is_read = True
        self.replies.wake()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
            self.replies.wake()


def streamed_item(raw: bytes, limits: RequestLimits) -> tuple[pb.StreamTransactionsItem, Refused | None]:
    """Return one item, decoded; if it cannot be decoded: its id alone, and why it is refused."""
    bytes_max = limits.transaction_request_bytes_max
    if len(raw) > bytes_max + _ITEM_BYTES:
        why: Refused = TransactionTooLarge(f"a transaction may have at most {bytes_max} bytes as a message")
        return pb.StreamTransactionsItem(id=item_id(raw) or 0), why
    try:
        return pb.StreamTransactionsItem.FromString(raw), None
    except DecodeError:
        why = InvalidRequest("INVALID_MESSAGE", "the item is not a transaction")
        return pb.StreamTransactionsItem(id=item_id(raw) or 0), why
