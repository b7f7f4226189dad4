"""The job that renews this coordinator's lease."""

from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Observer
from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import Log


class Heartbeat:
    """Renews this coordinator's lease and sets its clock by the log's."""

    name = "heartbeat"

    def __init__(
        self, engine: Engine, settings: RecoverySettings, *, log: Log, clock: LogClock, observer: Observer
    ) -> None:
        self.every_s = settings.heartbeat_every_s
        self._writer = engine.writer
        self._log = log
        self._clock = clock
        self._observer = observer
        self._lease_s = settings.lease_s

    async def run_once(self) -> int:
        asked_at = self._clock.monotonic()
        log_time = await self._log.coordinator_heartbeat(lease_s=self._lease_s)
        self._clock.set(log_time, asked_at=asked_at, answered_at=self._clock.monotonic())
        self._writer.log_answered(self.name)
        self._observer.heartbeat()
        return 1
