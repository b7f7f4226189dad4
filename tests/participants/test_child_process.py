"""The helper for child processes: output, failure, and an end in any case."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from participants.child_process import Child, ChildError, run, running

_TIMEOUT_S = 60.0
_IGNORES_SIGTERM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""
_PARENT = """
import asyncio, os
from participants.child_process import start_process

async def main():
    process = await start_process("sleep", "600")
    print(process.pid, flush=True)
    os._exit(0)

asyncio.run(main())
"""
_ECHO = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print("listening on port 1", flush=True)
for line in sys.stdin:
    print(line.upper(), end="", flush=True)
"""


async def test_the_output_and_the_status_of_a_process_are_returned() -> None:
    program = "import sys; print('out'); print('error', file=sys.stderr); sys.exit(3)"
    assert await run(sys.executable, "-c", program, timeout_s=_TIMEOUT_S) == (3, "out\n", "error\n")


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    stack = AsyncExitStack()
    process = await stack.enter_async_context(running(sys.executable, "-c", _IGNORES_SIGTERM, grace_s=0.05))
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    with pytest.raises(TimeoutError):
        await stack.aclose()
    assert await asyncio.wait_for(process.wait(), _TIMEOUT_S) == -signal.SIGKILL


async def test_a_process_ends_with_its_parent() -> None:
    _, pid, _ = await run(sys.executable, "-c", _PARENT, timeout_s=_TIMEOUT_S)
    try:
        orphan = psutil.Process(int(pid))
    except psutil.NoSuchProcess:
        return
    assert orphan.wait(_TIMEOUT_S) is None


async def test_a_process_that_ends_before_it_is_ready_is_reported_with_its_log(tmp_path: Path) -> None:
    child = await Child.start("shop", sys.executable, "-c", "exit('no stock')", log=tmp_path / "log")
    with pytest.raises(ChildError, match=r"shop \(pid \d+\) ended before it was ready(.|\n)*no stock"):
        await child.lines("listening on (.*)")
    await child.stop(any_status=True)


async def test_lines_are_sent_and_received_until_a_stop(tmp_path: Path) -> None:
    child = await Child.start("shop", sys.executable, "-c", _ECHO, log=tmp_path / "log", stdin=PIPE)
    assert await child.lines("listening on (.*)") == ["port 1"]
    await child.write("order")
    assert [await child.next_line(), await child.next_line()] == ["listening on port 1", "ORDER"]
    await child.stop()
    with pytest.raises(ChildError, match="ended with status 0"):
        await child.write("order")
