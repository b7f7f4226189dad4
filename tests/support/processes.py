"""Python programs as child processes of a test. None outlives its block."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, NamedTuple

TIMEOUT_S = 180


class Ended(NamedTuple):
    """How a process ended: its exit status, standard output and standard error."""

    status: int
    out: str
    error: str


@asynccontextmanager
async def python(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdout: int | None = PIPE,
    stderr: int | IO[bytes] | None = PIPE,
) -> AsyncIterator[Process]:
    """Run `python ARGUMENT...` beside the block. SIGTERM ends it, unless it has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        stdin=DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=directory,
        env=os.environ | dict(environment or {}),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        finally:
            if process.returncode is None:
                process.kill()


async def run_python(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    one_output: bool = False,
) -> Ended:
    """Run `python ARGUMENT...` to its end. With `one_output`, `out` holds both outputs in order."""
    stderr = STDOUT if one_output else PIPE
    async with python(*arguments, environment=environment, directory=directory, stderr=stderr) as process:
        return await ended(process)


async def ended(process: Process) -> Ended:
    """Wait until a process has ended."""
    out, error = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode is not None
    return Ended(process.returncode, (out or b"").decode(), (error or b"").decode())
