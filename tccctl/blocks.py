"""What a command shows, independent of the medium: tables, facts and sentences.

On a terminal they are coloured tables; in a pipe they are plain columns, two spaces apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from tccctl.formatting import NONE, harmless


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text with a style of `rich`."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    A `wide` column is shown only with `-o wide`. Text beyond `characters_max` is cut, but not with `-o wide`.
    """

    title: str
    wide: bool = False
    right: bool = False
    characters_max: int | None = None


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
                    yield f"{name:<{width}}  {value.text}"
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


def rich_group(blocks: Sequence[Block], *, wide: bool = False) -> Group:
    """Return the blocks for a terminal."""
    return Group(*(_rich(block, wide=wide) for block in blocks))


def _shown(table: Table, *, wide: bool) -> list[tuple[int, Column]]:
    return [(index, column) for index, column in enumerate(table.columns) if wide or not column.wide]


def _cut(text: str, column: Column, *, wide: bool) -> str:
    if wide or column.characters_max is None or len(text) <= column.characters_max:
        return text
    return f"{text[: column.characters_max - 1]}…"


def _rich(block: Block, *, wide: bool) -> RenderableType:
    match block:
        case TextBlock(text, style):
            return Text(harmless(text), style=style)
        case Facts(rows):
            grid = RichTable.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            for name, value in rows:
                grid.add_row(Text(name), Text(value.text, style=value.style))
            return grid
        case Table() if not block.rows:
            return Text(block.empty, style="dim")
        case Table():
            table = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
            columns = _shown(block, wide=wide)
            for _, column in columns:
                table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
            for row in block.rows:
                cells = (
                    Text(_cut(row[index].text, column, wide=wide), style=row[index].style)
                    for index, column in columns
                )
                table.add_row(*cells)
            return table
