"""Child processes: their start, their output and their end. None outlives this process."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, NamedTuple

_CHILD_LIFETIME = Path(__file__).with_name("child_lifetime.py")
_LOG_TAIL_LINES = 25
_LINE_BYTES_MAX = 2**26
_READY_TIMEOUT_S = 60.0
# A coordinator may need this long to drain.
_STOP_TIMEOUT_S = 30.0


class ChildError(Exception):
    """A child process did not do what it was started for. The message has the end of its log."""


class Ended(NamedTuple):
    """How a process ended: its exit status, standard output and standard error."""

    status: int
    out: str
    error: str


async def start_process(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: int = DEVNULL,
    stdout: int | IO[bytes] | None = PIPE,
    stderr: int | IO[bytes] | None = PIPE,
) -> Process:
    """Start a process. It gets SIGTERM when this process ends, for any reason (child_lifetime.py).

    It has its own session, so a Ctrl-C at the terminal reaches only this process, which
    then stops its children in order.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", _CHILD_LIFETIME, str(os.getpid())),
        *command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=directory,
        env=os.environ | dict(environment or {}),
        limit=_LINE_BYTES_MAX,
        start_new_session=True,
    )


@asynccontextmanager
async def running(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdout: int | IO[bytes] | None = PIPE,
    stderr: int | IO[bytes] | None = PIPE,
    grace_s: float = _STOP_TIMEOUT_S,
) -> AsyncIterator[Process]:
    """Run a process beside the block, and stop it at its end.

    Raises:
        TimeoutError: it did not end within `grace_s` after SIGTERM, and was killed.
    """
    process = await start_process(
        *command, environment=environment, directory=directory, stdout=stdout, stderr=stderr
    )
    try:
        yield process
    finally:
        await _stop(process, process.communicate(), grace_s)


async def run(
    *command: str | Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stderr: int | None = PIPE,
) -> Ended:
    """Run a process to its end, and return its output. With `STDOUT`, `out` holds both outputs in order.

    Raises:
        TimeoutError: it took longer, and was stopped.
    """
    async with running(*command, environment=environment, directory=directory, stderr=stderr) as process:
        return await ended(process, timeout_s)


async def ended(process: Process, timeout_s: float) -> Ended:
    """Wait until a process has ended, and return its output."""
    out, error = await asyncio.wait_for(process.communicate(), timeout_s)
    assert process.returncode is not None
    return Ended(
        process.returncode, (out or b"").decode(errors="replace"), (error or b"").decode(errors="replace")
    )


async def _stop(process: Process, end: Awaitable[object], grace_s: float) -> None:
    """Send SIGTERM, and SIGKILL if `end` takes longer."""
    _signal(process, signal.SIGTERM)
    try:
        await asyncio.wait_for(end, grace_s)
    finally:
        _signal(process, signal.SIGKILL)


def _signal(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)


class Child:
    """A running process that says something on standard output, and logs to standard error."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._lines: list[str] = []
        # How many of them `next_line` has returned.
        self._returned = 0
        # Set with each line and at the end of the output.
        self._changed = asyncio.Event()
        self._is_silent = False
        self._was_ready = False
        self._end_is_expected = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        name: str,
        *command: str | Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        stdin: int = DEVNULL,
    ) -> "Child":
        """Start a process; see `start_process`. With `stdin=PIPE`, `write` sends it lines."""
        with log.open("ab") as errors:
            process = await start_process(
                *command, environment=environment, directory=directory, stdin=stdin, stderr=errors
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self, pattern: str) -> list[str]:
        """Return the pattern's first group in each line so far that matches."""
        return [match[1] for line in self._lines if (match := re.fullmatch(pattern, line))]

    async def lines(self, pattern: str, *, count: int = 1) -> list[str]:
        """Wait until `count` lines match, and return their first groups. Then the process is ready.

        Raises:
            ChildError: The process has ended, or the time limit has passed.
        """
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while len(found := self.said(pattern)) < count and not self._is_silent:
                    await self._change()
        except TimeoutError:
            raise self._failure("is not ready in time") from None
        if len(found) < count:
            raise self._failure("ended before it was ready")
        self._was_ready = True
        return found

    async def next_line(self) -> str:
        """Return the next line.

        Raises:
            ChildError: The process has ended.
        """
        while self._returned == len(self._lines):
            if self._is_silent:
                raise self._failure(f"ended with status {await self._process.wait()}")
            await self._change()
        self._returned += 1
        return self._lines[self._returned - 1]

    async def write(self, line: str) -> None:
        """Send a line to its standard input.

        Raises:
            ChildError: The process has ended.
        """
        assert self._process.stdin is not None, "it was started without an input"
        try:
            self._process.stdin.write(f"{line}\n".encode())
            await self._process.stdin.drain()
        except ConnectionError:
            raise self._failure(f"ended with status {await self._process.wait()}") from None

    async def ended(self) -> int:
        """Wait for its end and return its exit status."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        _signal(self._process, number)

    def kill(self) -> None:
        """Send SIGKILL. Its end is then expected."""
        self._end_is_expected = True
        self.signal(signal.SIGKILL)

    async def stop(self, *, any_status: bool = False) -> None:
        """Send SIGTERM, and SIGKILL if it does not end in time.

        Raises:
            ChildError: It did not end in time, or with another status than 0, unless `any_status`.
        """
        was_killed, self._end_is_expected = self._end_is_expected or any_status, True
        try:
            await _stop(self._process, self._process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            raise self._failure("does not stop after SIGTERM") from None
        finally:
            self._reading.cancel()
        status = await self._process.wait()
        # During its start, it may not have installed its signal handler yet.
        is_abrupt = status == -signal.SIGTERM and not self._was_ready
        if status != 0 and not was_killed and not is_abrupt:
            raise self._failure(f"ended with status {status} after SIGTERM")

    async def watch(self) -> None:
        """Return when the process has ended as expected.

        Raises:
            ChildError: Its end was not expected.
        """
        status = await self._process.wait()
        if not self._end_is_expected:
            self._end_is_expected = True
            raise self._failure(f"ended with status {status}")

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._lines.append(line.decode(errors="replace").rstrip())
            self._changed.set()
        self._is_silent = True
        self._changed.set()

    def _failure(self, what: str) -> ChildError:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return ChildError("\n".join([f"{self.name} (pid {self.pid}) {what}. The end of its log:", *lines]))
