"""What a command shows, independent of the medium: tables, facts and sentences.

In a pipe they are plain columns, two spaces apart. On a terminal they are coloured tables, whose
rows never wrap: a narrow terminal gets fewer columns, or one line for each value.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from tccctl.formatting import NONE, harmless

# Columns between two columns of a table on a terminal.
_GAP = 2
# The width below which the text of a column is not worth reading.
_FLEXIBLE_MIN = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text with a style of `rich`."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    A `wide` column is shown only with `-o wide`. Text beyond `characters_max` is cut, but not with `-o wide`.
    On a narrow terminal, text of a `flexible` column is cut further, and `optional` columns are left
    out, those with the highest number first.
    """

    title: str
    wide: bool = False
    right: bool = False
    characters_max: int | None = None
    flexible: bool = False
    optional: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows below a header. A table without rows shows the sentence `empty`."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]] = field(default_factory=tuple)
    empty: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, one pair per line."""

    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A sentence. An empty text is an empty line."""

    text: str = ""
    style: str = ""


Block: TypeAlias = Table | Facts | TextBlock


def cell(text: object, style: str = "") -> Cell:
    """Return a cell of one line. An empty text is shown as "-"."""
    return Cell(harmless(str(text)) or NONE, style)


def plain_lines(blocks: Sequence[Block], *, wide: bool = False) -> Iterator[str]:
    """Return the blocks as lines of plain text."""
    for block in blocks:
        match block:
            case TextBlock(text):
                yield harmless(text)
            case Facts(rows):
                width = max((len(name) for name, _ in rows), default=0)
                for name, value in rows:
                    yield f"{harmless(name):<{width}}  {value.text}"
            case Table():
                yield from PlainTables(wide=wide).lines(block)


class PlainTables:
    """Tables with the same columns that arrive one at a time. Only the first has a header.

    Columns grow if a later table needs more room.
    """

    def __init__(self, *, wide: bool = False) -> None:
        self._wide = wide
        self._widths: list[int] = []

    def lines(self, table: Table) -> Iterator[str]:
        """Return the next table as lines of plain text."""
        if not table.rows:
            yield table.empty
            return
        columns = _shown(table, wide=self._wide)
        titles = [] if self._widths else [[column.title for _, column in columns]]
        lines = titles + [
            [_cut(row[index].text, column, wide=self._wide) for index, column in columns]
            for row in table.rows
        ]
        needed = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        self._widths = list(map(max, needed, self._widths or needed))
        for line in lines:
            aligned = (
                f"{text:>{width}}" if column.right else f"{text:<{width}}"
                for text, width, (_, column) in zip(line, self._widths, columns, strict=True)
            )
            yield "  ".join(aligned).rstrip()


def rich_group(blocks: Sequence[Block], *, width: int, wide: bool = False) -> Group:
    """Return the blocks for a terminal with that many columns."""
    return Group(*(_rich(block, width=width, wide=wide) for block in blocks))


def _shown(table: Table, *, wide: bool) -> list[tuple[int, Column]]:
    return [(index, column) for index, column in enumerate(table.columns) if wide or not column.wide]


def _cut(text: str, column: Column, *, wide: bool) -> str:
    if wide or column.characters_max is None or len(text) <= column.characters_max:
        return text
    return f"{text[: column.characters_max - 1]}…"


def _rich(block: Block, *, width: int, wide: bool) -> RenderableType:
    match block:
        case TextBlock(text, style):
            return Text(harmless(text), style=style)
        case Facts(rows):
            return _rich_facts(rows)
        case Table() if not block.rows:
            return Text(block.empty, style="dim")
        case Table():
            widths = _widths(block, width, wide=wide)
            return _rich_table(block, widths) if widths else _rich_records(block, wide=wide)


def _rich_facts(rows: Sequence[tuple[str, Cell]]) -> RichTable:
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(harmless(name)), Text(value.text, style=value.style))
    return grid


def _rich_table(table: Table, widths: Mapping[int, int]) -> RichTable:
    shown = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for index in widths:
        column = table.columns[index]
        shown.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(_rich_cell(row[index], width) for index, width in widths.items()))
    return shown


def _rich_cell(content: Cell, width: int) -> Text:
    text = Text(content.text, style=content.style)
    text.truncate(width, overflow="ellipsis")
    return text


def _rich_records(table: Table, *, wide: bool) -> Group:
    """Return the rows as records: a line for each value, and an empty line between two rows."""
    records: list[RenderableType] = []
    for row in table.rows:
        columns = _shown(table, wide=wide)
        records += [_rich_facts([(column.title, row[index]) for index, column in columns]), Text()]
    return Group(*records[:-1])


def _widths(table: Table, width: int, *, wide: bool) -> dict[int, int]:
    """Return the columns that are shown, by index, with their widths; empty if they do not fit."""
    needed = {
        index: max(
            len(column.title), *(cell_len(_cut(row[index].text, column, wide=wide)) for row in table.rows)
        )
        for index, column in _shown(table, wide=wide)
    }
    if wide:
        return needed if _excess(needed, width) <= 0 else {}
    while (excess := _excess(needed, width)) > 0:
        if (flexible := _flexible(table, needed, excess)) is not None:
            needed[flexible] -= excess
            break
        optional = [index for index in needed if table.columns[index].optional]
        if not optional:
            return {}
        # A column without any value goes before all others.
        del needed[max(optional, key=lambda index: (_is_empty(table, index), table.columns[index].optional))]
    return needed


def _excess(widths: Mapping[int, int], width: int) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1) - width


def _flexible(table: Table, widths: Mapping[int, int], excess: int) -> int | None:
    """Return a column whose text can be cut so far."""
    for index, width in widths.items():
        least = max(_FLEXIBLE_MIN, len(table.columns[index].title))
        if table.columns[index].flexible and width - excess >= least:
            return index
    return None


def _is_empty(table: Table, index: int) -> bool:
    return all(row[index].text == NONE for row in table.rows)
