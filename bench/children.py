"""Child processes: started, asked, stopped. None outlives this process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coordinator.process.operating_system import end_with_parent

_PROJECT = Path(__file__).resolve().parents[1]
_STOP_TIMEOUT_S = 60.0
_LOG_TAIL_CHARACTERS = 2_000


class ChildError(Exception):
    """A child process ended, or printed something unexpected."""


class Child:
    """A running `python -m MODULE ...`. What it logs is kept in `log_path`."""

    def __init__(self, arguments: Sequence[str], log_path: Path) -> None:
        ours = os.getpid()
        self._log_path = log_path
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_PROJECT,
                # Safe: nothing in this process runs in a second thread.
                preexec_fn=lambda: end_with_parent(ours),  # noqa: PLW1509
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def address(self) -> str:
        """Wait for `listening on HOST:PORT`, and return the address.

        Raises:
            ChildError: the process ended instead.
        """
        while True:
            line = self._line()
            if line.startswith("listening on "):
                return line.split()[-1]

    def tell(self, do: str, **details: Any) -> None:
        """Send a command; `answer` waits for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> dict[str, Any]:
        """Return the answer to the earliest command that has none yet."""
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Send a command, and return its answer."""
        self.tell(do, **details)
        return self.answer()

    def stop(self) -> None:
        """Terminate the process, and wait. If it does not end, kill it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def kill(self) -> None:
        """End the process as a crash would."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> ChildError:
        log = self._log_path.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
        return ChildError(f"{self._process.args!r} ended with {self._process.wait()}: {log}")


@contextmanager
def child(arguments: Sequence[str], log_path: Path) -> Iterator[Child]:
    """Run a child during the block."""
    process = Child(arguments, log_path)
    try:
        yield process
    finally:
        process.stop()
