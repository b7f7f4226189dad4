"""The jobs for transactions that are due: live ones, and parked ones in the log."""

from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Observer
from coordinator.jobs.resume import resume_in_chunks
from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import LogCell, Record
from tcc._internal.failpoint import failpoint


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

    def __init__(
        self,
        engine: Engine,
        settings: RecoverySettings,
        *,
        log: LogCell,
        clock: LogClock,
        observer: Observer,
        cell: int = 0,
    ) -> None:
        self.cell = cell
        self.every_s = settings.sweep_every_s
        self._engine = engine
        self._log = log
        self._clock = clock
        self._observer = observer
        self._poll_every_s = settings.poll_every_s
        self._settings = settings
        self._poll_at = 0.0
        self._unconfigured_every_s = settings.unconfigured_every_s
        self._unconfigured_at = 0.0
        # Participants that parked transactions wait for, though they are not configured here.
        self._unconfigured: frozenset[str] = frozenset()

    async def run_once(self) -> int:
        engine = self._engine
        now = self._clock.now()
        something_is_due = engine.pop_due(now, self.cell)
        if engine.draining or not (something_is_due or now >= self._poll_at):
            return 0
        if now >= self._unconfigured_at:
            waiting_on = await self._log.transaction_waiting_on()
            self._unconfigured = frozenset(waiting_on) - engine.dispatchers.keys()
            self._unconfigured_at = now + self._unconfigured_every_s
        resumed, more = await resume_in_chunks(engine, self._clock, self._settings, self._claim)
        # Claimed once, and then left alone: a coordinator that knows them claims them sooner.
        self._unconfigured = frozenset()
        self._poll_at = now if more else now + self._poll_every_s
        if resumed:
            self._observer.resumed("retried", resumed)
        return resumed

    async def _claim(self) -> tuple[list[Record], bool]:
        limits = self._engine.claim_limits(self._settings.claim_max, self._unconfigured)
        claimed = await self._log.transaction_claim_due(limits) if limits else []
        if claimed:
            failpoint("recovery.claimed")
        # If a limit may have been reached, more may be due.
        return claimed, bool(limits) and len(claimed) >= min(limits.values())
