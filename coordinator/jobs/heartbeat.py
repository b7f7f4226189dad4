"""The job that renews this coordinator's lease."""

from coordinator.core.errors import LogError
from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Observer
from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import LogCell


class Heartbeat:
    """Renews this coordinator's lease and sets its clock by the log's."""

    name = "heartbeat"

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
        self.every_s = settings.heartbeat_every_s
        self.cell = cell
        self._writers = engine.writer
        self._log = log
        self._clock = clock
        self._observer = observer
        self._lease_s = settings.lease_s

    async def run_once(self) -> int:
        asked_at = self._clock.monotonic()
        log_time = await self._log.coordinator_heartbeat(lease_s=self._lease_s)
        self._writers.cells[self.cell].log_answered(self.name)
        # Servers' clocks differ a little, so only one of them sets ours.
        if self.cell == self._writers.first_available:
            self._clock.set(log_time, asked_at=asked_at, answered_at=self._clock.monotonic())
        self._observer.heartbeat()
        return 1

    def failed(self, error: LogError) -> None:
        """Record that the cell cannot be used."""
        self._writers.cells[self.cell].log_failed(self.name, error)
