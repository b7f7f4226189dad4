"""Set-based statements: the parameters of a batch are parallel arrays, one per column.

The statement has the same text and the same few parameters for any number of items, so
PostgreSQL parses and plans it once per connection.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    Cast,
    Dialect,
    TableValuedAlias,
    Text,
    TypeDecorator,
    bindparam,
    cast,
    column,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from tcc._internal.arrays import plain_array, text_array


class _TextArray(TypeDecorator[Sequence[str | None]]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:  # noqa: ARG002 - SQLAlchemy's signature
        return text_array(value)


class _PlainArray(TypeDecorator[Sequence[object]]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:  # noqa: ARG002 - SQLAlchemy's signature
        return plain_array(value)


def array(name: str, kind: TypeEngine[Any]) -> Cast[Any]:
    """Return a parameter that takes a sequence. Only texts may be None."""
    travels_as = _TextArray() if isinstance(kind, Text) else _PlainArray()
    return cast(bindparam(name, type_=travels_as), ARRAY(kind))


def unnested(name: str, **kinds: TypeEngine[Any]) -> TableValuedAlias:
    """Return the parameters made by `arrays` as a table with these columns."""
    parameters = (array(f"{key}_array", kind) for key, kind in kinds.items())
    columns = (column(key, kind) for key, kind in kinds.items())
    return func.unnest(*parameters).table_valued(*columns, name=name).render_derived()


def arrays(names: Sequence[str], rows: Iterable[Sequence[object]]) -> dict[str, list[object]]:
    """Return rows as parameters for `unnested`: one array per name."""
    columns: list[list[object]] = [list(values) for values in zip(*rows, strict=True)]
    return {f"{name}_array": values for name, values in zip(names, columns or [[]] * len(names), strict=True)}
