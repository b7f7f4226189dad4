"""Messages of streams, taken apart without decoding their items: one bad item must not affect the others."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from google.protobuf.message import DecodeError

# The field of the items in each message of a stream or of a batch, and that of the id in an item.
_ITEMS, _ID = 1, 1

_VARINT_BYTES_MAX = 10
_VARINT_MAX = 2**64 - 1
# The wire types, and the sizes of those with a fixed size.
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}

_ITEM_TAG = _ITEMS << 3 | _LENGTH_DELIMITED
_ID_TAG = _ID << 3 | _VARINT


class Field(NamedTuple):
    """One field of a serialized message: where it begins, where its value starts, and where both end."""

    tag: int
    begin: int
    start: int
    end: int

    @property
    def is_item(self) -> bool:
        """Return whether it is an item of a message of a stream or of a batch."""
        return self.tag == _ITEM_TAG


def fields(raw: bytes) -> Iterator[Field]:
    """Yield the fields of a message of any type.

    Raises:
        DecodeError: The rest is no message.
    """
    end = 0
    while end < len(raw):
        begin = end
        tag, position = _varint(raw, begin)
        start, end = _value(raw, position, tag & 7)
        if end > len(raw):
            raise DecodeError("truncated")
        yield Field(tag, begin, start, end)


def split_items(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the serialized items of a message, each with its id. An item without a legible id is left out.

    Raises:
        DecodeError: The message is none at all.
    """
    for field in fields(raw):
        if field.is_item:
            item = raw[field.start : field.end]
            number = item_id(item)
            if number is not None:
                yield number, item


def item_id(item: bytes) -> int | None:
    """Return the id of a serialized item that cannot be decoded as a whole; None: none is legible."""
    found: int | None = None
    with suppress(DecodeError):  # what precedes is legible
        for field in fields(item):
            if field.tag == _ID_TAG:
                found, _ = _varint(item, field.start)
    return found


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
    """Return a varint of 64 bits, and the position after it."""
    value = 0
    for number, byte in enumerate(raw[position : position + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value & _VARINT_MAX, position + number + 1
    raise DecodeError("truncated")
