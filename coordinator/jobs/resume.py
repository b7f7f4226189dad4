"""Resume transactions from the log in chunks, with pauses."""

import asyncio
from collections.abc import Awaitable, Callable

from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import Record


async def resume_in_chunks(
    engine: Engine,
    clock: LogClock,
    settings: RecoverySettings,
    claim: Callable[[], Awaitable[tuple[list[Record], bool]]],
) -> tuple[int, bool]:
    """Drive the transactions that `claim` takes; it also returns whether there may be more.

    Return how many were resumed, and whether there may be more.
    """
    resumed, more = 0, True
    for _ in range(settings.chunks_max):
        if engine.draining:
            break
        asked_at = clock.monotonic()
        records, more = await claim()
        resumed += engine.resume(records)
        if not more:
            break
        took_s = clock.monotonic() - asked_at
        await asyncio.sleep(settings.throttle_s(took_s, is_busy=engine.begun > 0))
    return resumed, more
