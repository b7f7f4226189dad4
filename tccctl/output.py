"""Answers on standard output, formatted for a terminal, a pipe, or as `-o` selects."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any, TextIO, TypeVar

import yaml
from rich.console import Console

from tccctl.blocks import Block, PlainTables, Table, plain_lines, rich_group
from tccctl.formatting import harmless

T = TypeVar("T")


class OutputFormat(StrEnum):
    """The values of `-o`."""

    TEXT = "text"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


class Output:
    """Write answers to `out` and notes to `error`."""

    def __init__(
        self, output_format: OutputFormat, out: TextIO | None = None, error: TextIO | None = None
    ) -> None:
        self.format = output_format
        self.out = out or sys.stdout
        self.error = error or sys.stderr

    @property
    def is_data(self) -> bool:
        """Return whether the output is for programs: JSON or YAML."""
        return self.format in {OutputFormat.JSON, OutputFormat.YAML}

    @property
    def is_terminal(self) -> bool:
        """Return whether the output is a terminal, which shows colours."""
        return self.out.isatty()

    def answer(self, blocks: Sequence[Block], data: Any) -> None:
        """Write one of the two: `blocks` for people, or `data` for programs."""
        match self.format:
            case OutputFormat.JSON:
                self.out.write(_json(data) + "\n")
            case OutputFormat.YAML:
                self._write_yaml(data)
            case OutputFormat.TEXT | OutputFormat.WIDE:
                self.show(blocks)
        self.out.flush()

    def answer_in_pages(
        self,
        name: str,
        pages: Iterable[Sequence[T]],
        *,
        table: Callable[[Sequence[T]], Table],
        record: Callable[[T], Any],
        rest: Callable[[], tuple[Sequence[Block], Mapping[str, Any]]],
    ) -> None:
        """Write an answer that contains a long list, each page as soon as it is read.

        In text, each page is a `table`. In JSON and YAML, all pages together are a list of `record`s under
        the key `name`. `rest` is called at the end for what follows the list. If reading a page fails, the
        answer breaks off. Nothing is written before the first page is read.
        """
        left = iter(pages)
        first = next(left, ())
        match self.format:
            case OutputFormat.JSON:
                chunks = _json_object(name, map(record, _items(first, left)), lambda: rest()[1])
                for chunk in chunks:
                    self.out.write(chunk)
            case OutputFormat.YAML:
                for number, page in enumerate(chain([first], left)):
                    records = [record(item) for item in page]
                    self._write_yaml(records if number else {name: records})
                self._write_yaml(rest()[1])
            case OutputFormat.TEXT | OutputFormat.WIDE:
                self._show_pages(table, chain([first] if first else [], left))
                self.show(rest()[0])
        self.out.flush()

    def _show_pages(self, table: Callable[[Sequence[T]], Table], pages: Iterable[Sequence[T]]) -> None:
        plain = PlainTables(wide=self.format is OutputFormat.WIDE)
        for page in pages:
            if self.is_terminal:
                self.show([table(page)])
            else:
                self.out.writelines(f"{line}\n" for line in plain.lines(table(page)))
                self.out.flush()

    def _write_yaml(self, data: Any) -> None:
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        if not all(character.isprintable() or character == "\n" for character in text):
            # YAML has escapes for control characters, but PyYAML writes some of them as they are.
            text = yaml.safe_dump(data, sort_keys=False, allow_unicode=False)
        self.out.write(text)

    def show(self, blocks: Sequence[Block]) -> None:
        """Write blocks for people."""
        wide = self.format is OutputFormat.WIDE
        if self.is_terminal:
            console = self.console()
            console.print(rich_group(blocks, width=console.width, wide=wide), soft_wrap=False)
        else:
            self.out.writelines(f"{line}\n" for line in plain_lines(blocks, wide=wide))
        self.out.flush()

    def console(self) -> Console:
        """Return the terminal."""
        console = Console(file=self.out, highlight=False)
        # A terminal may claim to have no columns.
        return console if console.width else Console(file=self.out, highlight=False, width=80)

    def note(self, text: str) -> None:
        """Write a line to standard error. It is not part of the answer."""
        self.error.write(f"{harmless(text)}\n")
        self.error.flush()


def _items(first: Sequence[T], more: Iterable[Sequence[T]]) -> Iterator[T]:
    return chain(first, chain.from_iterable(more))


def _json_object(name: str, records: Iterable[Any], rest: Callable[[], Mapping[str, Any]]) -> Iterator[str]:
    """Yield what `_json` returns for {name: [*records], **rest()}, in pieces."""
    yield f"{{\n  {_json(name)}: ["
    count = 0
    for count, record in enumerate(records, start=1):
        yield ("," if count > 1 else "") + _json(record, indented_by=4, on_a_line_of_its_own=True)
    yield "\n  ]" if count else "]"
    for key, value in rest().items():
        yield f",\n  {_json(key)}: {_json(value, indented_by=2)}"
    yield "\n}\n"


def _json(data: Any, *, indented_by: int = 0, on_a_line_of_its_own: bool = False) -> str:
    text = _printable(json.dumps(data, indent=2, ensure_ascii=False))
    return ("\n" * on_a_line_of_its_own + text).replace("\n", "\n" + " " * indented_by)


def _printable(json_text: str) -> str:
    """Return the JSON with escapes for what a terminal would interpret: `json` keeps C1 and bidi controls."""
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in json_text
    )
