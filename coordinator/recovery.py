"""The scheduler's jobs: what finishes the work that was interrupted.

Each job is a bounded `run_once()` that returns how much it did, and decides
nothing about transactions: it finds those whose time has come and hands them to
the engine. `schedule` lets APScheduler tick them; it stores nothing.

- heartbeat: this coordinator lives; what time the log has
- expire: live transactions past their expiry, and Trys to repeat
- retry: parked transactions whose next attempt is due
- adopt: transactions of coordinators whose lease has run out
- watch: requests here that wait for transactions driven elsewhere
- recheck: transactions that others took over while requests wait for them here
- purge: transactions that ended long ago
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from msgspec import Struct

from coordinator.core.errors import LogUnavailable
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Anomaly
from coordinator.ports import Record
from tcc.failpoint import failpoint

logger = structlog.get_logger(__name__)


class RecoverySettings(Struct, frozen=True, kw_only=True):
    """How often the jobs run, and how much each may do at once."""

    lease_s: float = 3.0
    heartbeat_every_s: float = 1.0
    sweep_every_s: float = 0.2
    # How often to look for due transactions that other coordinators parked.
    poll_every_s: float = 1.0
    # How often to look whether they wait for participants that are configured no more.
    unconfigured_every_s: float = 30.0
    adopt_every_s: float = 1.0
    purge_every_s: float = 10.0
    # What was interrupted comes back in bites, with pauses between them, so that what is
    # asked now finds its turn. A pause is so many times as long as it took to take the bite,
    # which tells how fast the machine is and how busy; fewer times while nobody asks.
    claim_max: int = 100
    busy_throttle: float = 12.0
    idle_throttle: float = 2.0
    throttle_max_s: float = 0.5
    # Bites of a run, which goes on at the next tick.
    chunks_max: int = 32
    # How many a statement deletes, and how many statements a run may take: together
    # more than one worker can end meanwhile.
    purge_max: int = 5_000
    purge_batches_max: int = 20
    retention_s: float = 7 * 24 * 3600.0

    def throttle_s(self, took_s: float, *, is_busy: bool) -> float:
        """How long to leave the loop, the log and the participants to others after a bite."""
        pauses = self.busy_throttle if is_busy else self.idle_throttle
        return min(pauses * took_s, self.throttle_max_s)


class Job(Protocol):
    """Something to do every so often."""

    name: str
    every_s: float

    async def run_once(self) -> int: ...


class Heartbeat:
    """Renews this coordinator's lease and sets its clock by the log's."""

    name = "heartbeat"

    def __init__(self, engine: Engine, settings: RecoverySettings) -> None:
        self.every_s = settings.heartbeat_every_s
        self._engine = engine
        self._lease_s = settings.lease_s

    async def run_once(self) -> int:
        clock = self._engine.clock
        asked_at = clock.monotonic()
        log_time = await self._engine.log.coordinator_heartbeat(lease_s=self._lease_s)
        clock.set(log_time, asked_at=asked_at, answered_at=clock.monotonic())
        self._engine.writer.log_answered()
        self._engine.observer.heartbeat()
        return 1


class Expire:
    """Wakes live transactions past their expiry, and those with a Try to repeat."""

    name = "expire"

    def __init__(self, engine: Engine, settings: RecoverySettings) -> None:
        self.every_s = settings.sweep_every_s
        self._engine = engine

    async def run_once(self) -> int:
        return self._engine.wake_due()


class Retry:
    """Claims parked transactions that are due, a fair share for each participant."""

    name = "retry"

    def __init__(self, engine: Engine, settings: RecoverySettings) -> None:
        self.every_s = settings.sweep_every_s
        self._engine = engine
        self._poll_every_s = settings.poll_every_s
        self._settings = settings
        self._poll_at = 0.0
        self._unconfigured_every_s = settings.unconfigured_every_s
        self._unconfigured_at = 0.0

    async def run_once(self) -> int:
        engine = self._engine
        now = engine.clock.now()
        something_is_due = engine.pop_due(now)
        if engine.draining or not (something_is_due or now >= self._poll_at):
            return 0
        if now >= self._unconfigured_at:
            waiting_on = await engine.log.transaction_waiting_on()
            engine.unconfigured = frozenset(waiting_on) - engine.dispatchers.keys()
            self._unconfigured_at = now + self._unconfigured_every_s
        resumed, more = await _resume_in_chunks(engine, self._settings, self._claim)
        self._poll_at = now if more else now + self._poll_every_s
        if resumed:
            engine.observer.resumed("retried", resumed)
        return resumed

    async def _claim(self) -> tuple[list[Record], bool]:
        limits = self._engine.claim_limits(self._settings.claim_max)
        claimed = await self._engine.log.transaction_claim_due(limits) if limits else []
        if claimed:
            failpoint("recovery.claimed")
        # Where a limit may have been reached more may be due.
        return claimed, bool(limits) and len(claimed) >= min(limits.values())


class Adopt:
    """Takes over what dead coordinators were driving."""

    name = "adopt"

    def __init__(self, engine: Engine, settings: RecoverySettings) -> None:
        self.every_s = settings.sweep_every_s
        self._engine = engine
        self._settings = settings
        self._next_run_at = 0.0

    async def run_once(self) -> int:
        engine = self._engine
        now = engine.clock.now()
        if engine.draining or now < self._next_run_at:
            return 0
        adopted, more = await _resume_in_chunks(engine, self._settings, self._adopt)
        self._next_run_at = now if more else now + self._settings.adopt_every_s
        if adopted:
            logger.warning("adopted transactions of a dead coordinator", count=adopted)
            engine.observer.resumed("adopted", adopted)
            engine.observer.anomaly(Anomaly.ADOPTED, count=adopted)
        return adopted

    async def _adopt(self) -> tuple[list[Record], bool]:
        engine = self._engine
        room = min(self._settings.claim_max, engine.limits.live_max - len(engine.live))
        records = await engine.log.transaction_adopt(room) if room > 0 else []
        if records:
            failpoint("recovery.adopted")
        for record in records:
            if record.tx.trace is not None:
                engine.spans.adopted(record, engine.clock.now())
        return records, bool(records) and len(records) >= room


class Watch:
    """Answers requests that wait for transactions driven elsewhere."""

    name = "watch"

    def __init__(self, engine: Engine, settings: RecoverySettings) -> None:
        self.every_s = settings.sweep_every_s
        self._engine = engine

    async def run_once(self) -> int:
        gids = list(self._engine.watched)
        if not gids:
            return 0
        return self._engine.settle_watched(gids, await self._engine.log.transaction_get(gids))


class Recheck:
    """Forgets live transactions that others have taken over, so that whoever waits here learns it."""

    name = "recheck"

    def __init__(self, engine: Engine, settings: RecoverySettings) -> None:
        self.every_s = settings.poll_every_s
        self._engine = engine

    async def run_once(self) -> int:
        gids = self._engine.stale_suspects()
        if not gids:
            return 0
        return self._engine.evict_stale(await self._engine.log.transaction_get(gids))


class Purge:
    """Deletes transactions that ended longer ago than they are kept."""

    name = "purge"

    def __init__(self, engine: Engine, settings: RecoverySettings) -> None:
        self.every_s = settings.purge_every_s
        self._engine = engine
        self._retention_s = settings.retention_s
        self._purge_max = settings.purge_max
        self._batches_max = settings.purge_batches_max

    async def run_once(self) -> int:
        purged = 0
        for _ in range(self._batches_max):
            batch = await self._engine.log.transaction_purge(
                ended_before_s=self._retention_s, limit=self._purge_max
            )
            purged += batch
            self._engine.observer.purged(batch, finished=batch < self._purge_max)
            if batch < self._purge_max:
                break
            # Others may have waited for the connection, or for this loop.
            await asyncio.sleep(0)
        return purged


async def _resume_in_chunks(
    engine: Engine,
    settings: RecoverySettings,
    claim: Callable[[], Awaitable[tuple[list[Record], bool]]],
) -> tuple[int, bool]:
    """Drives on what `claim` takes, which also says whether there may be more.

    Returns how many, and whether there may be more still.
    """
    resumed, more = 0, True
    for _ in range(settings.chunks_max):
        if engine.draining:
            break
        asked_at = engine.clock.monotonic()
        records, more = await claim()
        resumed += engine.resume(records)
        if not more:
            break
        took_s = engine.clock.monotonic() - asked_at
        await asyncio.sleep(settings.throttle_s(took_s, is_busy=engine.begun > 0))
    return resumed, more


def jobs(engine: Engine, settings: RecoverySettings) -> list[Job]:
    """All jobs of one coordinator."""
    return [kind(engine, settings) for kind in (Heartbeat, Expire, Retry, Adopt, Watch, Recheck, Purge)]


def schedule(
    engine: Engine,
    settings: RecoverySettings,
    *,
    on_bug: Callable[[Exception], None],
    more: Sequence[Job] = (),
    later: Sequence[Job] = (),
) -> AsyncIOScheduler:
    """Return a started scheduler of all jobs, `more`, and `later`. The caller shuts it down.

    All run at once and then every so often; `later` those that have time until then.

    A log that is away is part of life: the job does nothing and comes again. Any
    other exception is a bug and goes to `on_bug`, which ends the process.
    """
    scheduler = AsyncIOScheduler(timezone="UTC")
    now = datetime.now(UTC)
    for job in (*jobs(engine, settings), *more, *later):
        scheduler.add_job(
            run_guarded,
            "interval",
            args=(engine, job, on_bug),
            seconds=job.every_s,
            name=job.name,
            max_instances=1,
            coalesce=True,
            next_run_time=now + timedelta(seconds=job.every_s) if job in later else now,
            misfire_grace_time=None,
        )
    scheduler.start()
    return scheduler


async def run_guarded(engine: Engine, job: Job, on_bug: Callable[[Exception], None]) -> None:
    """One tick of a job. Raises nothing: `schedule` says what becomes of an exception."""
    try:
        await job.run_once()
    except asyncio.CancelledError:
        return  # the scheduler shuts down, and would report this as an error of the job
    except LogUnavailable as error:
        engine.writer.log_failed(error)
    except Exception as error:
        logger.exception("a recovery job failed", job=job.name)
        on_bug(error)
