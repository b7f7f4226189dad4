"""`tccd` when its standard output or error is closed, or cannot be written."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from participants.child_process import run, running
from tests.support.processes import TIMEOUT_S, ended

slow = partial(pytest.param, marks=pytest.mark.slow)
QUIET = {"TCC_METRICS__LISTEN": "", "TCC_ADMIN__LISTEN": "127.0.0.1:0", "TCC_LISTEN__ADDRESS": "127.0.0.1:0"}


def redirected(
    program: str, redirections: str, environment: Mapping[str, str]
) -> AbstractAsyncContextManager[Process]:
    """Run a Python program by a shell that redirects its streams."""
    command = f'exec "$0" -m {program} {redirections}'
    return running("sh", "-c", command, sys.executable, environment=environment)


async def lines_with(stream: asyncio.StreamReader | None, words: str, count: int) -> list[str]:
    """Read until `count` lines with these words were read. Return all lines."""
    assert stream is not None
    lines: list[str] = []
    async with asyncio.timeout(TIMEOUT_S):
        while sum(words in line for line in lines) < count:
            line = (await stream.readline()).decode()
            assert line, f"it ended after {lines}"
            lines.append(line)
    return lines


async def stopped(process: Process) -> tuple[int | None, str]:
    """Send SIGTERM; return the exit status and the rest of both outputs."""
    process.terminate()
    status, out, error = await ended(process)
    return status, out + error


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirections",
    [
        "--workers 2 >/dev/full",
        pytest.param("--workers 2 >&-", marks=pytest.mark.slow),
        pytest.param("--workers 1 >/dev/full", marks=pytest.mark.slow),
        pytest.param("--workers 1 <&- >&-", marks=pytest.mark.slow),
    ],
)
async def test_a_coordinator_without_standard_output_goes_on_and_stops(
    log_url: str, redirections: str
) -> None:
    environment = QUIET | {"TCC_LOG__URL": log_url}
    async with redirected("coordinator", f"serve {redirections}", environment) as process:
        await lines_with(process.stderr, "listening for operators", 2 if "2" in redirections else 1)
        status, rest = await stopped(process)
    assert (status, "Traceback" in rest) == (0, False), rest


@pytest.mark.slow
@pytest.mark.parametrize("redirections", ["--workers 2 2>/dev/full", "--workers 2 2>&-", "--workers 1 2>&-"])
async def test_a_coordinator_without_standard_error_goes_on_and_stops(
    log_url: str, redirections: str
) -> None:
    environment = QUIET | {"TCC_LOG__URL": log_url}
    async with redirected("coordinator", f"serve {redirections}", environment) as process:
        await lines_with(process.stdout, "listening on", 1)
        assert (await stopped(process))[0] == 0


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("coordinator config show >/dev/full", 1, "tccd: [Errno 28] No space left on device\n"),
        slow("coordinator --help >/dev/full", 1, "tccd: [Errno 28] No space left on device\n"),
        ("coordinator config show >&-", 1, "tccd: [Errno 9] Bad file descriptor\n"),
        ("coordinator config show 2>&- | head -n 1 >&2", 0, "workers = 1"),
        (
            "tccctl --version >/dev/full",
            1,
            "tccctl: the answer could not be written: No space left on device\n",
        ),
        slow("tccctl --help >&-", 1, "tccctl: the answer could not be written: Bad file descriptor\n"),
    ],
)
async def test_a_command_whose_output_cannot_be_written_reports_it_in_a_line(
    command: str, status: int, message: str
) -> None:
    program, _, rest = command.partition(" ")
    async with redirected(program, rest, {}) as process:
        _, error = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == status
    assert error.decode().startswith(message)
    assert error.decode().count("\n") == bool(message)


async def test_files_do_not_take_the_number_of_a_closed_stream() -> None:
    program = (
        "import os\n"
        "from tcc._internal.standard_streams import open_closed_streams\n"
        "open_closed_streams()\n"
        "print('goes nowhere')\n"
        "opened = os.open('/dev/null', os.O_RDONLY)\n"
        "os.write(2, b'%d %s %s' % (opened, os.readlink('/proc/self/fd/0').encode(), "
        "os.readlink('/proc/self/fd/1').encode()))\n"
    )
    shell = ("sh", "-c", 'exec "$0" -c "$1" <&- >&-', sys.executable)
    assert await run(*shell, program, timeout_s=TIMEOUT_S) == (0, "", "3 /dev/null /dev/null")
