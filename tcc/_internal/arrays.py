"""PostgreSQL arrays as text: the parameters of statements that handle a batch.

A driver converts a list into an array element by element, in Python. That costs
more than everything else that is done per item of a batch. Here a column is escaped
and joined as a whole. A statement reads it with `CAST(CAST(:name AS text) AS
kind[])`, which every driver supports.

Source of the format: PostgreSQL's manual, "Array Input and Output Syntax".
"""

from collections.abc import Iterable, Sequence

_NUL = "\0"


def text_array(values: Sequence[str | None]) -> str:
    """Return texts as an array; None becomes NULL. Raises ValueError for a NUL character."""
    if not values:
        return "{}"
    if None in values:
        elements = ("NULL" if value is None else text_array([value])[1:-1] for value in values)
        return "{" + ",".join(elements) + "}"
    # NUL, which no text may contain, separates the elements while all are escaped at once.
    joined = _NUL.join(values)  # type: ignore[arg-type] # None is excluded above
    if joined.count(_NUL) != len(values) - 1:
        raise ValueError("a text for PostgreSQL contains a NUL character")
    escaped = joined.replace("\\", r"\\").replace('"', r"\"")
    return '{"' + escaped.replace(_NUL, '","') + '"}'


def plain_array(values: Iterable[object]) -> str:
    """Return numbers or UUIDs, whose `str` needs no quotes, as an array."""
    return "{" + ",".join(map(str, values)) + "}"


def bytes_array(values: Sequence[bytes]) -> str:
    """Return byte strings as an array, in hexadecimal digits."""
    if not values:
        return "{}"
    return r'{"\\x' + r'","\\x'.join([value.hex() for value in values]) + '"}'
