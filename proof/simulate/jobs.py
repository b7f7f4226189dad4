"""The recovery's jobs, ticked by the simulated clock instead of by APScheduler."""

import asyncio
from collections.abc import Callable, Sequence

from coordinator.engine.engine import Engine
from coordinator.jobs.job import Job
from coordinator.jobs.scheduler import run_guarded


class Ticking:
    """Jobs under way, as APScheduler runs them: at once, one run of each at a time, none made up."""

    def __init__(self, engine: Engine, recovery: Sequence[Job], on_bug: Callable[[Exception], None]) -> None:
        self._engine = engine
        self._on_bug = on_bug
        self._stopped = False
        self._tasks = [asyncio.ensure_future(self._tick(job)) for job in recovery]

    def shutdown(self, *, wait: bool) -> None:
        assert not wait
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def _tick(self, job: Job) -> None:
        now = asyncio.get_running_loop().time
        next_at = now()
        while not self._stopped:
            await asyncio.sleep(next_at - now())
            await run_guarded(self._engine, job, self._on_bug)
            next_at = max(next_at + job.every_s, now())


def schedule(
    engine: Engine,
    recovery: Sequence[Job],
    *,
    on_bug: Callable[[Exception], None],
    more: Sequence[Job] = (),  # noqa: ARG001 - as below
    later: Sequence[Job] = (),  # noqa: ARG001 - as below
) -> Ticking:
    """In place of `jobs.recovery.schedule`; what serves operators is not part of the simulation."""
    return Ticking(engine, recovery, on_bug)
