"""Whether a cell of the log can be used, as far as this process knows.

It counts as available unless a heartbeat or a write has failed and has not succeeded since. Operators
are notified of its return only when that has held for a while, so that a log which fails again and again
(a full disk) is one alert.
"""

import asyncio
from collections.abc import Callable

import structlog

from coordinator.core.errors import LogError
from coordinator.engine.observer import Anomaly, Observer

# For how long the log must be available before operators are notified of its return.
RECOVERED_AFTER_S = 5.0

logger = structlog.get_logger(__name__)


class CellHealth:
    """What has failed in a cell and has not succeeded since: the heartbeat, and writes under way."""

    def __init__(
        self,
        *,
        observer: Observer,
        on_availability: Callable[[], None],
        on_failed: Callable[[LogError], None],
    ) -> None:
        """`on_availability`: called whenever `available` changes. `on_failed`: called at each failure."""
        self._observer = observer
        self._on_availability = on_availability
        self._on_failed = on_failed
        self._failing: set[object] = set()
        self._recovery: asyncio.TimerHandle | None = None
        self._is_reported = False

    @property
    def available(self) -> bool:
        """Whether the cell can be used, as far as this process knows."""
        return not self._failing

    def log_answered(self, source: object) -> None:
        """Record that `source` can use the cell (again)."""
        if source not in self._failing:
            return
        self._failing.remove(source)
        if self.available:
            self._on_availability()
            logger.info("log is available again")
            self._recovery = asyncio.get_running_loop().call_later(RECOVERED_AFTER_S, self._report_recovery)

    def log_failed(self, source: object, error: LogError) -> None:
        """Record that `source` cannot use the cell."""
        was_available = self.available
        self._failing.add(source)
        if was_available:
            self._on_availability()
            logger.warning("log is unavailable", error=error.explained)
        if self._recovery is not None:
            self._recovery.cancel()
            self._recovery = None
        if not self._is_reported:
            self._is_reported = True
            self._observer.anomaly(Anomaly.LOG_UNAVAILABLE, error=error.explained)
        self._on_failed(error)

    def _report_recovery(self) -> None:
        self._recovery, self._is_reported = None, False
        self._observer.anomaly(Anomaly.LOG_RECOVERED)
