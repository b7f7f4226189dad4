"""Set-based statements: a batch travels as parallel arrays, one per column.

However many items a batch has, its statement has the same text and the same few
parameters, so PostgreSQL parses and plans it once per connection.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import TableValuedAlias, bindparam, column, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine


def unnested(name: str, **kinds: TypeEngine[Any]) -> TableValuedAlias:
    """The parameters made by `arrays`, as a table of these columns."""
    parameters = (bindparam(f"{key}_array", type_=ARRAY(kind)) for key, kind in kinds.items())
    columns = (column(key, kind) for key, kind in kinds.items())
    return func.unnest(*parameters).table_valued(*columns, name=name).render_derived()


def arrays(names: Sequence[str], rows: Iterable[Sequence[object]]) -> dict[str, list[object]]:
    """Rows as parameters for `unnested`: one array per name."""
    columns: list[list[object]] = [list(values) for values in zip(*rows, strict=True)]
    return {f"{name}_array": values for name, values in zip(names, columns or [[]] * len(names), strict=True)}
