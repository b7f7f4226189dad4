"""The job that renews this coordinator's lease."""

from coordinator.engine.engine import Engine
from coordinator.jobs.settings import RecoverySettings


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
