"""Every command line that the documents name is one that `tccctl` or `tccd` takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from coordinator.process.cli import app as tccd
from tccctl.cli import app as tccctl

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *("README.md", "docs/RUNBOOK.md", "docs/OPERATIONS.md", "docs/PERFORMANCE.md", "docs/GUARANTEES.md"),
    *("deploy/README.md", "deploy/tccd.service", "docs/RELEASING.md", "docs/GET_STARTED.md"),
    *(
        "docs/CONCEPTS.md",
        "docs/SECURITY_GUIDE.md",
        "docs/WRITING_AN_INITIATOR.md",
        "docs/reference/CONFIGURATION.md",
        "docs/reference/COMMANDS.md",
    ),
]
PROGRAMS = {"tccctl": get_command(tccctl), "tccd": get_command(tccd)}

_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:tccctl|tccd)(?: [^`]*)?)`")
_LINE = re.compile(r"^(?:\$ | *|ExecStart=\S*/)((?:tccctl|tccd) .*)$", re.MULTILINE)
# Where the shell, and not the command, reads on.
_SHELL = re.compile(r"^(?:[|&;<>]+)$")


def lines(text: str) -> Iterator[str]:
    """The command lines of a document: in code within the text, and in lines of blocks."""
    blocks = "".join(_BLOCK.findall(text)) or text
    yield from _LINE.findall(blocks)
    yield from (found.replace("\n", " ") for found in _INLINE.findall(_BLOCK.sub("", text)))


def words(line: str) -> list[str]:
    """The words up to where the shell reads on; N stands for a number."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if _SHELL.match(word):
            break
        found.append("1" if word == "N" else word)
    return found


def parse(line: str) -> None:
    """Has the command read a line, without doing anything. Raises what the command says of a wrong one."""
    name, *rest = words(line)
    command: Any = PROGRAMS[name]
    context: Any = None
    while hasattr(command, "resolve_command"):
        if not rest:
            return  # a group by its name
        if rest[0].startswith("-"):
            break
        context = command.context_class(command, info_name=name, parent=context)
        name, command, rest = command.resolve_command(context, rest)
    if rest in (["--help"], ["--version"]) or not (rest or context is None):
        return  # a command by its name
    command.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_line_of_a_document_is_accepted(document: str) -> None:
    for line in lines((ROOT / document).read_text()):
        try:
            parse(line)
        except Exception as error:  # noqa: BLE001 - which class it is, is Typer's affair
            pytest.fail(f"{document}: {line}: {error!r}: {error}")


def test_command_lines_are_found() -> None:
    found = [line for document in DOCUMENTS for line in lines((ROOT / document).read_text())]
    assert {line.split()[0] for line in found} == {"tccctl", "tccd"}
    assert len(found) > 60


@pytest.mark.parametrize(
    "line",
    [
        "tccctl tx lst",
        "tccctl tx list stuck",
        "tccctl tx list --filtre stuck",
        "tccctl tx resolve GID BRANCH",
        "tccctl tx resolve GID BRANCH done",
        "tccctl audit list --limit many",
        "tccd serve --worker 2",
        "tccd serve --workers 0",
    ],
)
def test_a_wrong_one_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"."):
        parse(line)
