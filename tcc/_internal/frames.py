"""Messages of a stream whose items cannot all be decoded: one bad item must not affect the others."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

# The field of the items in each message of a stream, and that of the id in an item.
_ITEMS, _ID = 1, 1


def split_items(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the serialized items of a message, each with its id. An item without a legible id is left out.

    Raises:
        DecodeError: The message is none at all.
    """
    for field in _fields(raw):
        if field.field_number == _ITEMS and isinstance(field.data, bytes):
            item_id = _id_of(field.data)
            if item_id is not None:
                yield item_id, field.data


def _id_of(item: bytes) -> int | None:
    try:
        ids = [field.data for field in _fields(item) if field.field_number == _ID]
    except DecodeError:
        return None
    return ids[-1] if ids and isinstance(ids[-1], int) else None


def _fields(raw: bytes) -> Iterable[Any]:
    """Return the fields of a message of an unknown type."""
    return cast("Iterable[Any]", UnknownFieldSet(Empty.FromString(raw)))
