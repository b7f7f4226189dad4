"""The clocks. Nothing else in the coordinator asks the machine for the time."""

import time
from collections.abc import Callable

# A thread that computed for the first share of a window is full, and is so until it falls below
# the second. A loop in Python that has no pause left stays some way below 1: other threads of its
# process, which serve its connections, hold the interpreter for the rest.
_SATURATED_SHARE, _ROOM_SHARE = 0.7, 0.5
_WINDOW_S = 0.1


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
        """Learns that the log said `log_time` somewhere between two monotonic moments.

        What was known before stays as far as it can be true. An answer that took long says
        little: to believe in its middle would move the time to and fro by half of what it took.
        """
        least_s, most_s = log_time - answered_at, log_time - asked_at
        known_s = (least_s + most_s) / 2 if self._offset_s is None else self._offset_s
        self._offset_s = min(max(known_s, least_s), most_s)


class LoopLoad:
    """Whether the thread that asks has hardly had a pause lately."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        computed: Callable[[], float] = time.thread_time,
    ) -> None:
        """Start measuring; `computed` returns the seconds of CPU that the thread has used."""
        self._monotonic = monotonic
        self._computed = computed
        self._since, self._before = monotonic(), computed()
        self._saturated = False

    def is_saturated(self) -> bool:
        """To be asked by one thread only, often: each answer is about the time since an earlier one."""
        now = self._monotonic()
        passed_s = now - self._since
        if passed_s >= _WINDOW_S:
            computed = self._computed()
            share = (computed - self._before) / passed_s
            self._saturated = share >= (_ROOM_SHARE if self._saturated else _SATURATED_SHARE)
            self._since, self._before = now, computed
        return self._saturated
