"""PostgreSQL arrays, written as text: how the columns of a batch travel.

A driver turns a list into an array element by element, in Python, which costs
more than everything else that a batch pays per item. Here a column is escaped
and joined as a whole. A statement reads it with `CAST(CAST(:name AS text) AS
kind[])`, which every driver understands.

Source of the format: PostgreSQL's manual, "Array Input and Output Syntax".
"""

from collections.abc import Iterable, Sequence

_NUL = "\0"


def text_array(values: Sequence[str | None]) -> str:
    """Texts, or None for NULL. Raises ValueError for a NUL, which PostgreSQL's texts cannot hold."""
    if not values:
        return "{}"
    if None in values:
        elements = ("NULL" if value is None else text_array([value])[1:-1] for value in values)
        return "{" + ",".join(elements) + "}"
    # NUL, which no text may contain, keeps the elements apart while all are escaped at once.
    joined = _NUL.join(values)  # type: ignore[arg-type] # None was looked for
    if joined.count(_NUL) != len(values) - 1:
        raise ValueError("a text for PostgreSQL contains a NUL character")
    escaped = joined.replace("\\", r"\\").replace('"', r"\"")
    return '{"' + escaped.replace(_NUL, '","') + '"}'


def plain_array(values: Iterable[object]) -> str:
    """Numbers or UUIDs: whatever `str` makes into text that needs no quotes."""
    return "{" + ",".join(map(str, values)) + "}"


def bytes_array(values: Sequence[bytes]) -> str:
    """Byte strings, in hexadecimal digits."""
    if not values:
        return "{}"
    return r'{"\\x' + r'","\\x'.join([value.hex() for value in values]) + '"}'
