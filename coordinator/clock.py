"""The clocks. Nothing else in the coordinator asks the machine for the time."""

import time
from collections.abc import Callable


class LogClock:
    """The log's time, told between two of its answers by this machine's monotonic clock.

    Deadlines and due times are thereby judged by the database's clock alone: a
    wall clock that is wrong, or jumps, on some coordinator moves nothing.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_s: float | None = None

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        assert self._offset_s is not None, "the clock has not been set by the log yet"
        return self._monotonic() + self._offset_s

    def monotonic(self) -> float:
        """Seconds since some moment; for measuring spans on this machine."""
        return self._monotonic()

    def set(self, log_time: float, *, asked_at: float, answered_at: float) -> None:
        """Learns that the log said `log_time` somewhere between two monotonic moments."""
        self._offset_s = log_time - (asked_at + answered_at) / 2
