"""Guides whose console blocks are run: the output must match what the guide shows.

Times, durations, ids, addresses and counts of calls differ between runs. Everything else
must match. A comment `<!-- event: WHAT -->` names an event between commands.
"""

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.support.processes import run_python

# The time for the output to match. On a busy machine a single command takes seconds to start.
PATIENCE_S = 240.0

# Queries, which are repeated until the output matches. Other commands run once.
_QUESTIONS = {"list", "show", "timeline", "why", "verify", "stats", "watch", "doctor", "reconcile"}
# Commands and their modules.
_PROGRAMS = {"tccctl": "tccctl", "tccd": "coordinator"}
# The end of a line that shows the exit code below the output.
_ASKS_FOR_CODE = "; echo $?"

_STEPS = re.compile(
    r"<!-- event: (?P<event>.*?) -->|^```console\n(?P<block>.*?)^```", re.DOTALL | re.MULTILINE
)

_VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"), "TIME"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b"), "ID"),
    (re.compile(r"\b\d{16}\.[0-9a-f]{64}\b"), "TOKEN"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "HASH"),
    (re.compile(r"did not answer \w+"), "did not answer STATEMENT"),
    (re.compile(r"/\S*/\.s\.PGSQL\.\d+"), "SOCKET"),
    (re.compile(r"(?:ipv4:)?\b127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"[\w.-]+:\d+(?=\*?(?:\s|$|[),:]))"), "PROCESS"),
    (re.compile(r"\bin \d+\.\d s\b"), "in AGE"),
    (re.compile(r"\b(?:\d+(?:ms|d|h|m|s))+\b"), "AGE"),
    (re.compile(r"\bversion \d+"), "version N"),
    (re.compile(r"--version \d+"), "--version N"),
    (re.compile(r"\bonce\b|\b\d+ times\b"), "N times"),
    (re.compile(r"\b\d+ consecutive failures"), "N consecutive failures"),
    (re.compile(r"\b\d+\.\d\b"), "RATE"),
)
# The columns of tables that hold counts that change all the time.
_VOLATILE_COLUMNS = {
    "FAILED",
    "TIMES",
    "NEXT",
    "PROBE",
    "COMPLETED",
    "IN FLIGHT",
    "BACKLOG",
    "LIVE",
    "LOG BACKLOG",
    "OWNED",
    "VERSION",
}
_VOLATILE_FACTS = {"version", "failed calls"}


@dataclass(frozen=True, slots=True)
class Event:
    """An event between commands."""

    name: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command line and the output that the guide shows."""

    line: str
    shown: str


Step: TypeAlias = Event | Command


def all_steps(guide: Path) -> list[Step]:
    """Return the steps of a whole guide, in order."""
    return list(_steps(guide.read_text()))


def steps(guide: Path, section: str) -> list[Step]:
    """Return the steps of a section of a guide, in order."""
    text = guide.read_text()
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{guide} has no section {section!r}"
    return list(_steps(found.group(1)))


def _steps(text: str) -> Iterator[Step]:
    for found in _STEPS.finditer(text):
        if found["event"]:
            yield Event(found["event"])
            continue
        for part in re.split(r"^\$ ", found["block"], flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            yield Command(line, shown)


async def walk(
    walked: list[Step],
    environment: Mapping[str, str],
    events: Mapping[str, Callable[[], Awaitable[None]]],
    directory: Path | None = None,
) -> None:
    """Run the steps one after the other in `directory`, and compare their output."""
    assert any(isinstance(step, Command) for step in walked)
    assert {step.name for step in walked if isinstance(step, Event)} == set(events)
    for step in walked:
        match step:
            case Event(name):
                await events[name]()
            case Command():
                await _run(step, environment, directory)


async def _run(command: Command, environment: Mapping[str, str], directory: Path | None) -> None:
    words = shlex.split(command.line.removesuffix(_ASKS_FOR_CODE))
    asks_for_code = command.line.endswith(_ASKS_FOR_CODE)

    async def answer() -> str:
        said, code = await _answer(words, environment, directory)
        return f"{said}{code}\n" if asks_for_code else said

    async with asyncio.timeout(PATIENCE_S):
        answered = await answer()
        while lines(answered) != lines(command.shown) and _only_asks(words):
            last = answered
            try:
                answered = await answer()
            except asyncio.CancelledError:
                assert lines(last) == lines(command.shown), f"$ {command.line}\n{last}"
                raise
    assert lines(answered) == lines(command.shown), f"$ {command.line}\n{answered}"


def _only_asks(words: list[str]) -> bool:
    return bool(_QUESTIONS & set(words[1:3])) and not any(word.startswith("--repair") for word in words)


async def _answer(
    words: list[str], environment: Mapping[str, str], directory: Path | None
) -> tuple[str, int]:
    """Return the text of both outputs of a command, and its exit code."""
    ended = await run_python(
        *("-m", _PROGRAMS[words[0]], *words[1:]),
        environment=environment,
        directory=directory,
        one_output=True,
    )
    return ended.out, ended.status


def lines(text: str) -> list[str]:
    """Return the lines without values that differ between runs and without column widths."""
    titles: list[str] = []
    found = []
    for line in text.rstrip().splitlines():
        cells = re.split(r" {2,}", line.strip())
        if not line:
            titles = []
        elif len(cells) > 1 and all(cell.isupper() for cell in cells):
            titles = cells
        elif len(cells) == len(titles):
            cells = [
                "N" if title in _VOLATILE_COLUMNS else cell for title, cell in zip(titles, cells, strict=True)
            ]
        elif len(cells) == 2 and cells[0] in _VOLATILE_FACTS:
            cells[1] = "N"
        found.append("  ".join(map(_steady, cells)))
    return found


def _steady(cell: str) -> str:
    for pattern, stand_in in _VOLATILE:
        cell = pattern.sub(stand_in, cell)
    return cell
