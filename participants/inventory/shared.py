"""The gate in Redis with what runs beside it, for one process of the inventory."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from participants.inventory.gate_metrics import GateMetrics
from participants.inventory.redis_gate import RedisGate
from participants.inventory.sync_back import SyncBack
from participants.inventory.tokens import Tokens
from participants.metrics_server import serving_text


class SharedGate:
    """Call `open`, and serve the participant within `running`."""

    def __init__(
        self, url: str, *, budget_s: float, interval_s: float, metrics_address: str | None = None
    ) -> None:
        self.metrics = GateMetrics()
        self._counts = Tokens(url)
        self._budget_s = budget_s
        self._interval_s = interval_s
        self._metrics_address = metrics_address

    def open(self, database: AsyncEngine) -> RedisGate:
        """Return the gate over a database."""
        return RedisGate(
            self._counts, self._sync_back(database).compare, self.metrics, budget_s=self._budget_s
        )

    @asynccontextmanager
    async def running(self, database: AsyncEngine) -> AsyncIterator[None]:
        """Compare with the database and serve metrics during the block. The client is closed at its end."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._counts.close)
            await stack.enter_async_context(self._sync_back(database).running())
            if self._metrics_address is not None:
                await stack.enter_async_context(serving_text(self.metrics.text, self._metrics_address))
            yield

    def _sync_back(self, database: AsyncEngine) -> SyncBack:
        return SyncBack(self._counts, database, self.metrics, interval_s=self._interval_s)
