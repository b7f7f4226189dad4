"""The child processes of the demo: their output, their end and their logs."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_CHILD_LIFETIME = Path(__file__).with_name("child_lifetime.py")
_LOG_TAIL_LINES = 25
_READY_TIMEOUT_S = 60.0
# A coordinator may need this long to drain.
_STOP_TIMEOUT_S = 30.0


class DemoError(Exception):
    """The demo cannot continue. The message has the reason and the end of the process's log."""


class Child:
    """A running child process. It reports on standard output that it is ready, and logs to standard error.

    It has its own session, so a Ctrl-C at the terminal reaches only the demo, which then
    stops its children in order. It also ends when the demo is killed (child_lifetime.py).
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._lines: list[str] = []
        # Set with each line and at the end of the output.
        self._changed = asyncio.Event()
        self._is_silent = False
        self._was_ready = False
        self._end_is_expected = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, name: str, command: Sequence[str | Path], log: Path) -> "Child":
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _CHILD_LIFETIME, str(os.getpid())),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self, pattern: str) -> list[str]:
        """Return the pattern's first group in each line so far that matches."""
        return [match[1] for line in self._lines if (match := re.fullmatch(pattern, line))]

    async def lines(self, pattern: str, *, count: int = 1) -> list[str]:
        """Wait until `count` lines match, and return their first groups.

        Raises:
            DemoError: The process has ended, or the time limit has passed.
        """
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while len(found := self.said(pattern)) < count and not self._is_silent:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise self._failure("is not ready in time") from None
        if len(found) < count:
            raise self._failure("ended before it was ready")
        self._was_ready = True
        return found

    async def ended(self) -> int:
        """Wait for its end and return its exit status."""
        return await self._process.wait()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        self._signal(number)

    def kill(self) -> None:
        """Send SIGKILL. Its end is then expected."""
        self._end_is_expected = True
        self._process.kill()

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if it does not end in time.

        Raises:
            DemoError: It did not end, or ended with an unexpected status.
        """
        was_killed, self._end_is_expected = self._end_is_expected, True
        try:
            if not was_killed:
                self._signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                status = await self._process.wait()
        except TimeoutError:
            raise self._failure("does not stop after SIGTERM") from None
        finally:
            self._signal(signal.SIGKILL)
            self._reading.cancel()
        # During its start, it may not have installed its signal handler yet.
        is_abrupt = status == -signal.SIGTERM and not self._was_ready
        if status != 0 and not was_killed and not is_abrupt:
            raise self._failure(f"ended with status {status} after SIGTERM")

    async def watch(self) -> None:
        """Return when the process has ended as expected.

        Raises:
            DemoError: Its end was not expected.
        """
        status = await self._process.wait()
        if not self._end_is_expected:
            self._end_is_expected = True
            raise self._failure(f"ended with status {status}")

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._lines.append(line.decode(errors="replace").rstrip())
            self._changed.set()
        self._is_silent = True
        self._changed.set()

    def _failure(self, what: str) -> DemoError:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return DemoError("\n".join([f"{self.name} (pid {self.pid}) {what}. The end of its log:", *lines]))
