"""The jobs for requests that wait for transactions which another coordinator drives."""

from collections.abc import Iterable

from coordinator.engine.engine import Engine
from coordinator.jobs.settings import RecoverySettings
from coordinator.ports.log import Log


class Watch:
    """Answers requests that wait for transactions of other coordinators."""

    name = "watch"

    def __init__(self, engine: Engine, settings: RecoverySettings, *, log: Log, cell: int = 0) -> None:
        self.cell = cell
        self.every_s = settings.sweep_every_s
        self._engine = engine
        self._log = log

    async def run_once(self) -> int:
        gids = _of_cell(self._log, self.cell, self._engine.watched)
        if not gids:
            return 0
        return self._engine.settle_watched(gids, await self._log.transaction_get(gids))


class Recheck:
    """Forgets live transactions that others have taken over, so that requests here are answered."""

    name = "recheck"

    def __init__(self, engine: Engine, settings: RecoverySettings, *, log: Log, cell: int = 0) -> None:
        self.cell = cell
        self.every_s = settings.poll_every_s
        self._engine = engine
        self._log = log

    async def run_once(self) -> int:
        gids = _of_cell(self._log, self.cell, self._engine.stale_suspects())
        if not gids:
            return 0
        return self._engine.evict_stale(await self._log.transaction_get(gids))


def _of_cell(log: Log, cell: int, gids: Iterable[str]) -> list[str]:
    return [gid for gid in gids if log.cell_of(gid) == cell]
