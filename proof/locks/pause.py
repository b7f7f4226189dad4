"""A holder is paused, another one comes, and the first one wakes up: are there two of them?"""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import tcc
from participants.child_process import Child
from proof.locks.contenders import Contender
from proof.locks.holder import NAME

_TIMEOUT_S = 60.0


@asynccontextmanager
async def _paused_holder(kind: str, target: str, lifetime_s: float, log: Path) -> AsyncIterator[Child]:
    """Run a process that has acquired the lock and is then stopped by SIGSTOP."""
    command = (sys.executable, "-m", "proof.locks.holder", kind, target, str(lifetime_s))
    holder = await Child.start("holder", *command, log=log, stdin=PIPE)
    try:
        assert await holder.next_line() == "acquired"
        holder.signal(signal.SIGSTOP)
        yield holder
    finally:
        holder.signal(signal.SIGCONT)
        await holder.stop(any_status=True)


async def _woken(holder: Child) -> str:
    """Let the holder go on; return whether it has changed what the lock protects."""
    holder.signal(signal.SIGCONT)
    await holder.write("go on")
    return await holder.next_line()


async def wake_beside_second(
    kind: str, target: str, second: Contender, *, lifetime_s: float, log: Path
) -> str:
    """Wait until the lock is given to a second holder; return what the first one then does beside it."""
    async with (
        asyncio.timeout(_TIMEOUT_S),
        _paused_holder(kind, target, lifetime_s, log) as holder,
        second.hold(NAME),
    ):
        return await _woken(holder)


async def second_during_pause(address: str, *, wait_s: float, log: Path) -> tuple[str, str]:
    """Return the outcome of a second transaction during the pause, and what the first one does afterwards."""
    async with (
        asyncio.timeout(_TIMEOUT_S),
        tcc.Client(address) as client,
        _paused_holder("transaction", address, _TIMEOUT_S, log) as holder,
    ):
        request = {"keys": [NAME], "wait_ms": round(wait_s * 1000)}
        try:
            await client.execute([tcc.BranchRequest("locks", "acquire", request)], timeout_s=_TIMEOUT_S)
        except tcc.TransactionCancelled as refusal:
            return refusal.detail, await _woken(holder)
        return "SUCCEEDED", await _woken(holder)
