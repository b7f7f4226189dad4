"""Python programs as child processes of a test. None outlives its block."""

import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO

from participants import child_process
from participants.child_process import Ended

TIMEOUT_S = 180


def python(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdout: int | None = PIPE,
    stderr: int | IO[bytes] | None = PIPE,
) -> AbstractAsyncContextManager[Process]:
    """Run `python ARGUMENT...` beside the block. SIGTERM ends it, unless it has ended."""
    return child_process.running(
        *(sys.executable, *arguments),
        environment=environment,
        directory=directory,
        stdout=stdout,
        stderr=stderr,
        grace_s=TIMEOUT_S,
    )


async def run_python(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    one_output: bool = False,
) -> Ended:
    """Run `python ARGUMENT...` to its end. With `one_output`, `out` holds both outputs in order."""
    return await child_process.run(
        *(sys.executable, *arguments),
        environment=environment,
        directory=directory,
        stderr=STDOUT if one_output else PIPE,
        timeout_s=TIMEOUT_S,
    )


async def ended(process: Process) -> Ended:
    """Wait until a process has ended."""
    return await child_process.ended(process, TIMEOUT_S)
