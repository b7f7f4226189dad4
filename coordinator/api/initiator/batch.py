"""The request of a batch or of a stream, taken apart before its transactions are decoded; and the replies.

A message that holds nothing but two bytes for each of its items takes fifty times its size in memory,
and as much time to decode. So the items are counted first, and each is decoded on its own.
"""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError
from msgspec import Struct

from coordinator.api.calls import UnreadBytes, responses_unread
from coordinator.api.errors import to_error
from coordinator.api.initiator import replies
from coordinator.core.errors import InvalidRequest, Refused
from coordinator.core.model import Transaction
from coordinator.engine.waiting import Milestone, Waiter
from tcc._internal.frames import fields
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

# About the size of an error: its texts are short enough for headers.
ERROR_BYTES = 4_096
# The size of a response. Without an option of its own, a client accepts 4 MiB.
_RESPONSE_BYTES = 2 * 2**20

# What a request of a stream holds besides its items.
_CANCELLED_BYTES_MAX = 64 * 2**10
# A newer client may send fields that are not known here, but not many.
_OTHER_FIELDS_MAX = 64


class Batch(Struct, frozen=True):
    """The serialized transactions of a batch, in their order."""

    items: list[bytes]


class Frame(Struct, frozen=True):
    """One request of a stream: its serialized items, and the items whose callers have left."""

    items: list[bytes]
    cancelled_ids: Sequence[int]


def batch_decoder(items_max: int) -> Callable[[bytes], Batch]:
    """Return the decoder of an ExecuteTransactionsRequest with at most `items_max` items.

    It raises DecodeError, or InvalidRequest if there are more items.
    """
    return lambda raw: Batch(_split(raw, items_max)[0])


def frame_decoder(items_max: int) -> Callable[[bytes], Frame]:
    """Return the decoder of a StreamTransactionsRequest with at most `items_max` items.

    It raises DecodeError, or InvalidRequest if there are more items.
    """

    def decode(raw: bytes) -> Frame:
        items, others = _split(raw, items_max)
        if not others:
            return Frame(items, ())
        if len(others) > _CANCELLED_BYTES_MAX:
            raise DecodeError("too many cancelled items")
        return Frame(items, pb.StreamTransactionsRequest.FromString(others).cancelled_ids)

    return decode


def _split(raw: bytes, items_max: int) -> tuple[list[bytes], bytes]:
    """Return the serialized items of a request, and its other fields."""
    items: list[bytes] = []
    others: list[bytes] = []
    for field in fields(raw):
        if field.is_item:
            items.append(raw[field.start : field.end])
            if len(items) > items_max:
                raise InvalidRequest("BATCH_TOO_LARGE", f"at most {items_max} transactions per call")
        else:
            others.append(raw[field.begin : field.end])
            if len(others) > _OTHER_FIELDS_MAX:
                raise DecodeError("too many unknown fields")
    return items, b"".join(others)


Reply = TypeVar("Reply")


class Replies(Generic[Reply]):
    """The replies to a batch or of a stream, collected until there is room to send them."""

    def __init__(self, unread: UnreadBytes) -> None:
        # Set when the caller is gone, or does not read.
        self.closed = False
        self._unread = unread
        # Held here, and of these in the message that is being sent.
        self._held = 0
        self._sent = 0
        self._ready: deque[tuple[Reply, int]] = deque()
        self._some = asyncio.Event()

    def has_room(self, size: int) -> bool:
        """Return whether a reply of this size may wait for its client."""
        return self._unread.has_room(size, self._held)

    def add(self, reply: Reply, size: int) -> None:
        """Add a reply of about `size` bytes."""
        if self.closed:
            return
        self._held += size
        self._unread.held += size
        self._ready.append((reply, size))
        self._some.set()

    def wake(self) -> None:
        """Let `take` return, even without a reply."""
        self._some.set()

    async def take(self) -> list[Reply]:
        """Return the oldest replies, but no more than fit into a message; none only after `wake`.

        Those that were taken before have been sent by now.
        """
        self.release_sent()
        if not self._ready:
            await self._some.wait()
        self._some.clear()
        taken: list[Reply] = []
        while self._ready and (not taken or self._sent + self._ready[0][1] <= _RESPONSE_BYTES):
            reply, size = self._ready.popleft()
            taken.append(reply)
            self._sent += size
        return taken

    def close(self) -> None:
        """Drop the replies that were not taken, and those to come."""
        self.closed = True
        self._ready.clear()
        self._release(self._held - self._sent)

    def release_sent(self) -> None:
        """Record that what was taken has been sent."""
        self._release(self._sent)
        self._sent = 0

    def _release(self, size: int) -> None:
        self._held -= size
        self._unread.release(size)


class Item(Waiter):
    """One transaction of several that share a call."""

    __slots__ = ("_answered", "_replies")

    def __init__(self, collected: Replies[Any]) -> None:
        super().__init__(Milestone.DECIDED)
        self._replies = collected
        # Shortly before the deadline it may be answered while the engine still holds it.
        self._answered = False

    def settle(self, tx: Transaction) -> None:
        if self._answered:
            return
        size = replies.outcome_bytes(tx)
        if self._replies.has_room(size):
            self._answered = True
            self._answer(replies.outcome(tx), None, size)
        else:
            self.fail(responses_unread())

    def fail(self, error: Refused) -> None:
        self.refuse(to_error(error))

    def refuse(self, error: common.Error) -> None:
        if not self._answered:
            self._answered = True
            self._answer(None, error, ERROR_BYTES)

    def is_cancelled(self) -> bool:
        return self._answered or self._replies.closed

    @abstractmethod
    def _answer(self, outcome: pb.TransactionOutcome | None, error: common.Error | None, size: int) -> None:
        """Add the reply, which has about `size` bytes."""


class BatchItem(Item):
    """One transaction of a batch."""

    __slots__ = ("_index",)

    def __init__(self, collected: Replies[pb.ExecuteTransactionsReply], index: int) -> None:
        super().__init__(collected)
        self._index = index

    def _answer(self, outcome: pb.TransactionOutcome | None, error: common.Error | None, size: int) -> None:
        reply = pb.ExecuteTransactionsReply(index=self._index, outcome=outcome, error=error)
        self._replies.add(reply, size)
