"""A circuit breaker: what keeps failing is left alone for a while."""

import time
from collections.abc import Callable


class Breaker:
    """Opens after `failures_max` failures in a row. After `open_s` it lets one attempt through."""

    def __init__(
        self,
        *,
        failures_max: int = 3,
        open_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_max = failures_max
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._next_attempt_at_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._failures_max

    def allows(self) -> bool:
        """Return whether to attempt it now."""
        if not self.is_open:
            return True
        if self._clock() < self._next_attempt_at_s:
            return False
        self._next_attempt_at_s = self._clock() + self._open_s
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._next_attempt_at_s = self._clock() + self._open_s
