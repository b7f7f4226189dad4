"""The job that deletes ended transactions after their retention."""

import asyncio

from coordinator.engine.observer import Observer
from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import LogCell


class Purge:
    """Deletes ended transactions after their retention."""

    name = "purge"

    def __init__(
        self, settings: RecoverySettings, *, log: LogCell, observer: Observer, cell: int = 0
    ) -> None:
        self.cell = cell
        self.every_s = settings.purge_every_s
        self._log = log
        self._observer = observer
        self._retention_s = settings.retention_s
        self._purge_max = settings.purge_max
        self._batches_max = settings.purge_batches_max

    async def run_once(self) -> int:
        purged = 0
        for _ in range(self._batches_max):
            batch = await self._log.transaction_purge(ended_before_s=self._retention_s, limit=self._purge_max)
            purged += batch
            self._observer.purged(batch, finished=batch < self._purge_max)
            if batch < self._purge_max:
                break
            # Let others have the connection, and this loop.
            await asyncio.sleep(0)
        return purged
