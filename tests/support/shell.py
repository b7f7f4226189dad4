"""The shell of a reader who follows a guide: commands run one after the other, some in the background."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.processes import TIMEOUT_S

_END = "--- the command has ended ---"


class Shell:
    """A shell that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, line: str) -> str:
        """Return what a command line prints to its standard output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\necho '{_END}'\n".encode())
        printed = await asyncio.wait_for(self._process.stdout.readuntil(f"{_END}\n".encode()), TIMEOUT_S)
        return printed.decode().removesuffix(f"{_END}\n")


@asynccontextmanager
async def shell(
    directory: Path, environment: Mapping[str, str], *, one_output: bool = False
) -> AsyncIterator[Shell]:
    """Run a shell during the block. `one_output`: what commands print to standard error is included."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        cwd=directory,
        env=os.environ | environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if one_output else None,
        # It is the leader of a group of its own, so that nothing that it started is left over.
        start_new_session=True,
    )
    try:
        yield Shell(process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()
