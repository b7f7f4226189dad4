"""The parameters of statements in PostgreSQL's binary format.

A driver finds out from each value, element by element, how it is to be sent. Here the types are
known since the statement was compiled, and so is the way to send them.

Source of the formats: the `…recv` functions of PostgreSQL's types, `array_recv` among them.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from struct import Struct as Format
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import BigInteger, Boolean, DateTime, Double, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

# Timestamps are counted from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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


class _Element(NamedTuple):
    """A type of values: its number and that of its arrays, and what sends a value alone and in an array.

    In an array its length comes first.
    """

    oid: int
    array_oid: int
    encode: Callable[[Any], bytes]
    framed: Callable[[Any], bytes]


def _fixed(oid: int, array_oid: int, form: str) -> _Element:
    alone = Format(f">{form}")
    return _Element(oid, array_oid, alone.pack, partial(Format(f">i{form}").pack, alone.size))


def _varying(oid: int, array_oid: int, encode: Callable[[Any], bytes]) -> _Element:
    def framed(value: Any) -> bytes:
        content = encode(value)
        return _length(len(content)) + content

    return _Element(oid, array_oid, encode, framed)


def _array(element: _Element) -> ParameterType:
    """Return the type of lists, whose elements may be None."""
    framed = element.framed
    empty = _array_head(_NO_DIMENSION, 0, element.oid)
    whole = _array_head(_ONE_DIMENSION, 0, element.oid)
    with_nulls = _array_head(_ONE_DIMENSION, 1, element.oid)
    of_one = whole + _length(1) + _LOWER_BOUND

    def encode_all(values: Sequence[Any]) -> bytes:
        if not values:
            return empty
        if None in values:
            parts = [_NULL if value is None else framed(value) for value in values]
            return b"".join([with_nulls, _length(len(values)), _LOWER_BOUND, *parts])
        if len(values) == 1:  # as it is for a lone transaction
            return of_one + framed(values[0])
        return b"".join([whole, _length(len(values)), _LOWER_BOUND, *map(framed, values)])

    return ParameterType(element.array_oid, encode_all)


_ELEMENTS: dict[type[TypeEngine[Any]], _Element] = {
    Boolean: _fixed(16, 1000, "?"),
    LargeBinary: _varying(17, 1001, bytes),
    BigInteger: _fixed(20, 1016, "q"),
    SmallInteger: _fixed(21, 1005, "h"),
    Text: _varying(25, 1009, str.encode),
    Double: _fixed(701, 1022, "d"),
    DateTime: _varying(1184, 1185, _moment),
}
_SCALARS = {kind: ParameterType(element.oid, element.encode) for kind, element in _ELEMENTS.items()}
_ARRAYS = {kind: _array(element) for kind, element in _ELEMENTS.items()}
TEXT = _SCALARS[Text]


def timestamp(us: float) -> datetime:
    """Return the value of a parameter for a moment, in microseconds since the Unix epoch."""
    return _UNIX_EPOCH + timedelta(microseconds=us)


def parameter_type(kind: TypeEngine[Any]) -> ParameterType:
    """Return how parameters of a type of SQLAlchemy are sent. Raises KeyError for one that is not known."""
    if isinstance(kind, ARRAY):
        return _ARRAYS[type(kind.item_type)]
    return _SCALARS[type(kind)]
