"""The request of a batch, taken apart before its transactions are decoded; and its replies.

A message that holds nothing but two bytes for each of its items takes fifty times its size in memory,
and as much time to decode. So the items are counted first, and each is decoded on its own.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from google.protobuf.message import DecodeError
from msgspec import Struct

from coordinator.api.calls import UnreadBytes
from coordinator.core.errors import InvalidRequest
from tcc.transaction.v1 import transaction_pb2 as pb

# About the size of an error: its texts are short enough for headers.
ERROR_BYTES = 4_096
# The size of a response. Without an option of its own, a client accepts 4 MiB.
_RESPONSE_BYTES = 2 * 2**20

# Of ExecuteTransactionsRequest.
_TRANSACTIONS = 1
# A newer client may send fields that are not known here, but not many.
_OTHER_FIELDS_MAX = 64
_VARINT_BYTES_MAX = 10
# The sizes of wire types with a fixed size.
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}


class Batch(Struct, frozen=True):
    """The serialized transactions of a batch, in their order."""

    items: list[bytes]


def batch_decoder(items_max: int) -> Callable[[bytes], Batch]:
    """Return the decoder of an ExecuteTransactionsRequest with at most `items_max` items.

    It raises DecodeError, or InvalidRequest if there are more items.
    """

    def decode(raw: bytes) -> Batch:
        items: list[bytes] = []
        others = position = 0
        while position < len(raw):
            tag, position = _varint(raw, position)
            start, position = _value(raw, position, tag & 7)
            if position > len(raw):
                raise DecodeError("truncated")
            if tag == _TRANSACTIONS << 3 | _LENGTH_DELIMITED:
                items.append(raw[start:position])
                if len(items) > items_max:
                    raise InvalidRequest("BATCH_TOO_LARGE", f"at most {items_max} transactions per call")
            else:
                others += 1
                if others > _OTHER_FIELDS_MAX:
                    raise DecodeError("too many unknown fields")
        return Batch(items)

    return decode


def _value(raw: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Return where the value of a field starts, and where it ends."""
    if wire_type == _LENGTH_DELIMITED:
        size, start = _varint(raw, position)
        return start, start + size
    if wire_type == _VARINT:
        return position, _varint(raw, position)[1]
    if wire_type in _FIXED_SIZES:
        return position, position + _FIXED_SIZES[wire_type]
    raise DecodeError("unknown wire type")


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """Return a varint, and the position after it."""
    value = 0
    for number, byte in enumerate(raw[position : position + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, position + number + 1
    raise DecodeError("truncated")


class Replies:
    """The replies to a batch, collected until the stream has room for them."""

    def __init__(self, count: int, unread: UnreadBytes) -> None:
        self.missing = count
        # Set when the caller is gone, or does not read.
        self.closed = False
        self._unread = unread
        # Held here, and of these in the message that is being sent.
        self._held = 0
        self._sent = 0
        self._ready: deque[tuple[pb.ExecuteTransactionsReply, int]] = deque()
        self._some = asyncio.Event()

    def has_room(self, size: int) -> bool:
        """Return whether a reply of this size may wait for its client."""
        return self._unread.has_room(size, self._held)

    def add(self, reply: pb.ExecuteTransactionsReply, size: int) -> None:
        """Add a reply of about `size` bytes."""
        if self.closed:
            return
        self._held += size
        self._unread.held += size
        self._ready.append((reply, size))
        self._some.set()

    async def take(self) -> list[pb.ExecuteTransactionsReply]:
        """Return the oldest replies, at least one, but no more than fit into a message.

        Those that were taken before have been sent by now.
        """
        self.release_sent()
        if not self._ready:
            self._some.clear()
            await self._some.wait()
        taken: list[pb.ExecuteTransactionsReply] = []
        while self._ready and (not taken or self._sent + self._ready[0][1] <= _RESPONSE_BYTES):
            reply, size = self._ready.popleft()
            taken.append(reply)
            self._sent += size
        self.missing -= len(taken)
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
