"""Where answers go: standard output, as the terminal, the pipe or `-o` wants them."""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TextIO

import yaml
from rich.console import Console

from tccctl.blocks import Block, plain_lines, rich_group


class OutputFormat(StrEnum):
    """What `-o` takes."""

    TEXT = "text"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


class Output:
    """Writes answers to `out`, and what goes beside them to `error`."""

    def __init__(
        self, output_format: OutputFormat, out: TextIO | None = None, error: TextIO | None = None
    ) -> None:
        self.format = output_format
        self.out = out or sys.stdout
        self.error = error or sys.stderr

    @property
    def is_data(self) -> bool:
        """Programs read it: JSON or YAML."""
        return self.format in {OutputFormat.JSON, OutputFormat.YAML}

    @property
    def is_terminal(self) -> bool:
        """People read it, in colours."""
        return self.out.isatty()

    def answer(self, blocks: Sequence[Block], data: Any) -> None:
        """Writes one of the two: `blocks` for people, or `data` for programs."""
        match self.format:
            case OutputFormat.JSON:
                self.out.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
            case OutputFormat.YAML:
                yaml.safe_dump(data, self.out, sort_keys=False, allow_unicode=True)
            case OutputFormat.TEXT | OutputFormat.WIDE:
                self.show(blocks)
        self.out.flush()

    def show(self, blocks: Sequence[Block]) -> None:
        """Writes blocks for people."""
        wide = self.format is OutputFormat.WIDE
        if self.is_terminal:
            console = Console(file=self.out, highlight=False)
            console.print(rich_group(blocks, wide=wide), soft_wrap=False)
        else:
            self.out.writelines(f"{line}\n" for line in plain_lines(blocks, wide=wide))
        self.out.flush()

    def note(self, text: str) -> None:
        """Writes a line to standard error: it is no part of the answer."""
        self.error.write(f"{text}\n")
        self.error.flush()
