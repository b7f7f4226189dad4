"""Child processes that execute commands, one a line, and answer each with one line."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from participants.child_process import Child

_PROJECT = Path(__file__).resolve().parents[1]


class CommandedChild:
    """A running `python -m MODULE ...`. Nothing is read from it while no method waits for it."""

    def __init__(self, runner: asyncio.Runner, child: Child) -> None:
        self._runner = runner
        self._child = child

    @property
    def pid(self) -> int:
        return self._child.pid

    def address(self) -> str:
        """Wait for `listening on HOST:PORT`, and return the address."""
        return self._runner.run(self._child.lines(r"listening on (\S+)"))[-1]

    def send(self, do: str, **details: Any) -> None:
        """Send a command; `answer` waits for its answer."""
        self._runner.run(self._child.write(json.dumps({"do": do, **details})))

    def answer(self) -> dict[str, Any]:
        """Return the answer to the earliest command that has none yet."""
        line = ""
        while not line.startswith("{"):  # the line with the address is no answer
            line = self._runner.run(self._child.next_line())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Send a command, and return its answer."""
        self.send(do, **details)
        return self.answer()

    def stop(self) -> None:
        """Terminate the process, and wait."""
        self._runner.run(self._child.stop(any_status=True))

    def kill(self) -> None:
        """End the process as a crash would."""
        self._child.kill()
        self._runner.run(self._child.ended())


@contextmanager
def child(runner: asyncio.Runner, arguments: Sequence[str], log: Path) -> Iterator[CommandedChild]:
    """Run a child during the block."""
    start = Child.start(log.stem, sys.executable, "-m", *arguments, log=log, directory=_PROJECT, stdin=PIPE)
    process = CommandedChild(runner, runner.run(start))
    try:
        yield process
    finally:
        process.stop()
