"""The scheduler's jobs: they finish work that was interrupted.

Each job is a bounded `run_once()` that returns how much it did. A job decides
nothing about transactions: it finds those that are due and gives them to the
engine. `schedule` runs them with APScheduler; it stores nothing.

- heartbeat: renews the lease, and reads the log's time
- expire: live transactions past their expiry, and Trys to repeat
- retry: parked transactions whose next attempt is due
- adopt: transactions of coordinators whose lease has run out
- watch: requests here that wait for transactions driven elsewhere
- recheck: transactions that others took over while requests wait for them here
- purge: transactions that ended long ago
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from coordinator.core.errors import LogError
from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import NULL_SPANS, Observer, Spans
from coordinator.jobs.adopt import Adopt
from coordinator.jobs.heartbeat import Heartbeat
from coordinator.jobs.job import Job
from coordinator.jobs.purge import Purge
from coordinator.jobs.retry import Expire, Retry
from coordinator.jobs.settings import RecoverySettings
from coordinator.jobs.watch import Recheck, Watch
from coordinator.ports.log import Log

logger = structlog.get_logger(__name__)


def jobs(
    engine: Engine,
    settings: RecoverySettings,
    *,
    log: Log,
    clock: LogClock,
    observer: Observer,
    spans: Spans = NULL_SPANS,
) -> list[Job]:
    """Return all recovery jobs of one coordinator.

    Most work through one cell each: one that is unavailable delays no other.
    """
    found: list[Job] = []
    for number, cell in enumerate(log.cells):
        found += [
            Heartbeat(engine, settings, log=cell, clock=clock, observer=observer, cell=number),
            *([] if number else [Expire(engine, settings)]),
            Retry(engine, settings, log=cell, clock=clock, observer=observer, cell=number),
            Adopt(engine, settings, log=cell, clock=clock, observer=observer, spans=spans, cell=number),
            Watch(engine, settings, log=log, cell=number),
            Recheck(engine, settings, log=log, cell=number),
            Purge(settings, log=cell, observer=observer, cell=number),
        ]
    return found


def schedule(
    engine: Engine,
    recovery: Sequence[Job],
    *,
    on_bug: Callable[[Exception], None],
    more: Sequence[Job] = (),
    later: Sequence[Job] = (),
) -> AsyncIOScheduler:
    """Return a started scheduler of all these jobs. The caller shuts it down.

    `recovery`, `more`: run at once, then at their intervals. `later`: run after their first interval.

    If the log fails, the job does nothing and runs again later. Any other exception is a bug,
    which goes to `on_bug`; the job runs again later all the same.
    """
    scheduler = AsyncIOScheduler(timezone="UTC")
    now = datetime.now(UTC)
    by_name: dict[str, list[Job]] = {}
    for job in (*recovery, *more, *later):
        by_name.setdefault(job.name, []).append(job)
    for name, same in by_name.items():
        every_s = same[0].every_s
        scheduler.add_job(
            SameJobs(engine, same, on_bug).run,
            "interval",
            seconds=every_s,
            name=name,
            # One, and those that wait for an unavailable cell.
            max_instances=len(same),
            coalesce=True,
            next_run_time=now + timedelta(seconds=every_s) if same[0] in later else now,
            misfire_grace_time=None,
        )
    scheduler.start()
    return scheduler


class SameJobs:
    """A job, or that of each cell: side by side, because one that is under way delays no other."""

    def __init__(self, engine: Engine, jobs: Sequence[Job], on_bug: Callable[[Exception], None]) -> None:
        self._engine = engine
        self._jobs = jobs
        self._on_bug = on_bug
        self._in_flight: set[Job] = set()

    async def run(self) -> None:
        """Run those that are not under way."""
        idle = [job for job in self._jobs if job not in self._in_flight]
        self._in_flight.update(idle)
        try:
            await asyncio.gather(*map(self._run, idle))
        except asyncio.CancelledError:
            return  # the scheduler shuts down, and would report this as an error of the job

    async def _run(self, job: Job) -> None:
        try:
            await run_guarded(self._engine, job, self._on_bug)
        finally:
            self._in_flight.discard(job)


async def run_guarded(engine: Engine, job: Job, on_bug: Callable[[Exception], None]) -> None:
    """Run a job once. Raise nothing: see `schedule` for how exceptions are handled."""
    try:
        await job.run_once()
    except asyncio.CancelledError:
        return  # the scheduler shuts down, and would report this as an error of the job
    except LogError as error:
        if isinstance(job, Heartbeat):
            job.failed(error)
        elif engine.writer.cells[getattr(job, "cell", 0)].available:
            logger.warning("a job could not use the log; it runs again", job=job.name, error=error.explained)
    except Exception as error:
        logger.exception("a job failed because of a bug; it runs again", job=job.name)
        on_bug(error)
