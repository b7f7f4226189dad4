"""A process that holds a lock and then changes what it protects: `python -m proof.locks.holder ...`.

Its arguments are the kind, the address and how long the lock or its transaction lives, in seconds. It
prints `acquired`, waits for a line, and prints `changed`, or `refused REASON` if it was prevented.
"""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager

import tcc
from participants.redis_server import open_client
from proof.locks.contenders import RedisPyLock, Redlock

NAME = "cart"


async def main(kind: str, target: str, lifetime_s: float) -> None:
    match kind:
        case "redis-py":
            await _with_redis(RedisPyLock(open_client(target), sleep_s=0.1, ttl_s=lifetime_s).hold(NAME))
        case "redlock":
            await _with_redis(Redlock(open_client(target), ttl_s=lifetime_s).hold(NAME))
        case _:
            await _in_transaction(target, lifetime_s)


async def _with_redis(lock: AbstractAsyncContextManager[None]) -> None:
    async with lock:
        await _paused()
        # The lock's time to live may be over, but nothing tells the holder, or the resource.
        _say("changed")


async def _in_transaction(address: str, lifetime_s: float) -> None:
    async with tcc.Client(address) as client:
        try:
            async with client.transaction(expiry_s=lifetime_s) as tx:
                await tx.try_("locks", "acquire", {"keys": [NAME]}, branch_id="lock")
                await _paused()
                # Any branch stands for the change: each is a Try of the same transaction.
                await tx.try_("locks", "acquire", {"keys": ["changed"]}, branch_id="change")
                _say("changed")
        except tcc.TransactionCancelled as error:
            _say(f"refused {error.reason}")


async def _paused() -> None:
    _say("acquired")
    await asyncio.to_thread(sys.stdin.readline)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
