"""The job that erases payloads and results of ended transactions after their retention."""

import asyncio

from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import LogCell


class ErasePayloads:
    """Erases payloads and results before the transactions are purged."""

    name = "erase"

    def __init__(
        self, settings: RecoverySettings, *, log: LogCell, retention_s: float, cell: int = 0
    ) -> None:
        self.cell = cell
        self.every_s = settings.purge_every_s
        self._log = log
        self._retention_s = retention_s
        self._batch_max = settings.erase_max
        self._batches_max = settings.erase_batches_max

    async def run_once(self) -> int:
        """Read at most `erase_max` * `erase_batches_max` transactions. Raises LogUnavailable."""
        read = 0
        for _ in range(self._batches_max):
            batch = await self._log.payloads_erase(ended_before_s=self._retention_s, limit=self._batch_max)
            read += batch
            if batch < self._batch_max:
                break
            # Let others have the connection, and this loop.
            await asyncio.sleep(0)
        return read
