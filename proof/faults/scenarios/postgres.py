"""The PostgreSQL of everybody crashes, and recovers, again and again."""

import argparse
import asyncio
from typing import Any

from proof.faults.testbed import Testbed

_BETWEEN_S = (5.0, 20.0)


async def crash_postgres(testbed: Testbed, options: argparse.Namespace) -> dict[str, Any]:
    """It is ended as a power cut would (SIGQUIT: no checkpoint, no goodbye) and started again."""
    loop = asyncio.get_running_loop()
    crashes = 0
    async with testbed.load("crash") as load:
        end_at = loop.time() + options.crash_s
        while (pause_s := testbed.chance.uniform(*_BETWEEN_S)) < end_at - loop.time():
            await asyncio.sleep(pause_s)
            testbed.verifier.note("crash", "postgres")
            await asyncio.to_thread(testbed.system.postgres.restart, "immediate")
            crashes += 1
        await asyncio.sleep(max(0.0, end_at - loop.time()))
    testbed.say(f"{crashes} crashes of PostgreSQL in {options.crash_s:.0f} s, {load.placed} orders")
    return {"crashes": crashes, "seconds": options.crash_s, "orders": load.placed}
