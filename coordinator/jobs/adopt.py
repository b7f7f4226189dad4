"""The job that adopts transactions of coordinators whose lease has expired."""

import structlog

from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import NULL_SPANS, Anomaly, Observer, Spans
from coordinator.jobs.resume import resume_in_chunks
from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import LogCell, Record
from tcc._internal.failpoint import failpoint

logger = structlog.get_logger(__name__)


class Adopt:
    """Takes over the transactions of dead coordinators."""

    name = "adopt"

    def __init__(
        self,
        engine: Engine,
        settings: RecoverySettings,
        *,
        log: LogCell,
        clock: LogClock,
        observer: Observer,
        spans: Spans = NULL_SPANS,
        cell: int = 0,
    ) -> None:
        self.cell = cell
        self.every_s = settings.sweep_every_s
        self._engine = engine
        self._log = log
        self._clock = clock
        self._observer = observer
        self._spans = spans
        self._settings = settings
        self._next_run_at = 0.0
        self._next_registration_at = 0.0

    async def run_once(self) -> int:
        engine = self._engine
        now = self._clock.now()
        if engine.draining or now < self._next_run_at:
            return 0
        await self._register_unknown(now)
        adopted, more = await resume_in_chunks(engine, self._clock, self._settings, self._adopt)
        self._next_run_at = now if more else now + self._settings.adopt_every_s
        if adopted:
            logger.warning("adopted transactions of a dead coordinator", count=adopted)
            self._observer.resumed("adopted", adopted)
            self._observer.anomaly(Anomaly.ADOPTED, count=adopted)
        return adopted

    async def _register_unknown(self, now: float) -> None:
        """Let transactions be adopted whose owner is not in the log, as after an incomplete restore."""
        if now < self._next_registration_at:
            return
        found = await self._log.coordinator_register_unknown(lease_s=self._settings.lease_s)
        self._next_registration_at = now + self._settings.register_unknown_every_s
        if found:
            logger.warning(
                "the log holds transactions of unknown coordinators; they are adopted after a lease",
                coordinators=found,
            )

    async def _adopt(self) -> tuple[list[Record], bool]:
        engine = self._engine
        room = min(self._settings.claim_max, engine.room())
        records = await self._log.transaction_adopt(room) if room > 0 else []
        if records:
            failpoint("recovery.adopted")
        for record in records:
            if record.tx.trace is not None:
                self._spans.adopted(record, self._clock.now())
        return records, bool(records) and len(records) >= room
