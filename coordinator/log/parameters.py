"""The parameters of statements in PostgreSQL's binary format.

A driver finds out from each value, element by element, how it is to be sent. Here the types are
known since the statement was compiled, and so is the way to send them.

Source of the formats: the `…recv` functions of PostgreSQL's types, `array_recv` among them.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct as Format
from typing import Any

from msgspec import Struct
from sqlalchemy import BigInteger, Boolean, DateTime, Double, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

# Timestamps are counted from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_length = Format(">i").pack
_long = Format(">q").pack
_NULL = _length(-1)
# The number of dimensions, whether there are NULLs, and the type of the elements.
_array_head = Format(">iiI").pack
_NO_DIMENSION, _ONE_DIMENSION = 0, 1
_LOWER_BOUND = _length(1)


class ParameterType(Struct, frozen=True):
    """A type of parameters: its number in PostgreSQL's catalog, and how its values are sent."""

    oid: int
    encode: Callable[[Any], bytes]


def _moment(value: datetime) -> bytes:
    return _long((value - _EPOCH) // _MICROSECOND)


def _array(element: ParameterType) -> Callable[[Sequence[Any]], bytes]:
    """Return what sends a list, whose elements may be None."""
    encode = element.encode
    empty = _array_head(_NO_DIMENSION, 0, element.oid)
    whole = _array_head(_ONE_DIMENSION, 0, element.oid)
    with_nulls = _array_head(_ONE_DIMENSION, 1, element.oid)

    def encode_all(values: Sequence[Any]) -> bytes:
        if not values:
            return empty
        parts = [with_nulls if None in values else whole, _length(len(values)), _LOWER_BOUND]
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                content = encode(value)
                parts += _length(len(content)), content
        return b"".join(parts)

    return encode_all


TEXT = ParameterType(25, str.encode)
# A type, and that of its arrays.
_ELEMENTS: dict[type[TypeEngine[Any]], tuple[ParameterType, int]] = {
    Boolean: (ParameterType(16, Format(">?").pack), 1000),
    LargeBinary: (ParameterType(17, bytes), 1001),
    BigInteger: (ParameterType(20, _long), 1016),
    SmallInteger: (ParameterType(21, Format(">h").pack), 1005),
    Text: (TEXT, 1009),
    Double: (ParameterType(701, Format(">d").pack), 1022),
    DateTime: (ParameterType(1184, _moment), 1185),
}
_SCALARS = {kind: element for kind, (element, _) in _ELEMENTS.items()}
_ARRAYS = {kind: ParameterType(oid, _array(element)) for kind, (element, oid) in _ELEMENTS.items()}


def parameter_type(kind: TypeEngine[Any]) -> ParameterType:
    """Return how parameters of a type of SQLAlchemy are sent. Raises KeyError for one that is not known."""
    if isinstance(kind, ARRAY):
        return _ARRAYS[type(kind.item_type)]
    return _SCALARS[type(kind)]
