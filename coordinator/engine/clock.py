"""The clocks. No other module of the coordinator reads the machine's time."""

import time
from collections.abc import Callable
from pathlib import Path

# A thread is saturated when it computes for the first share of a window, until it falls below the
# second. A Python loop without any pause stays below 1: the threads that serve its connections
# hold the interpreter for the rest.
_SATURATED_SHARE, _ROOM_SHARE = 0.7, 0.5
_WINDOW_S = 0.1
# Of the thread that reads it.
_SCHEDULE = Path("/proc/thread-self/schedstat")


class LogClock:
    """The log's time. Between two of its answers, this machine's monotonic clock continues it.

    Deadlines and due times depend on the database's clock alone. A wall clock that is
    wrong, or jumps, on a coordinator has no effect.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_s: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether the log has told its time."""
        return self._offset_s is not None

    def now(self) -> float:
        """Return the seconds since the Unix epoch."""
        assert self._offset_s is not None, "the clock has not been set by the log yet"
        return self._monotonic() + self._offset_s

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment, to measure spans on this machine."""
        return self._monotonic()

    def set(self, log_time: float, *, asked_at: float, answered_at: float) -> None:
        """Set the clock: the log's time was `log_time` at some moment between two monotonic moments.

        The previous offset is changed only as far as it contradicts that. After a slow answer
        the middle of the two moments is a bad guess; to use it would move the time to and fro.
        """
        least_s, most_s = log_time - answered_at, log_time - asked_at
        known_s = (least_s + most_s) / 2 if self._offset_s is None else self._offset_s
        self._offset_s = min(max(known_s, least_s), most_s)


def wanted_s() -> float:
    """Return for how many seconds the calling thread has computed, or has waited for a CPU.

    Where Linux does not report the second, it is the first alone.
    """
    try:
        computed_ns, waited_ns, _ = _SCHEDULE.read_text().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(computed_ns) + int(waited_ns)) / 1e9


class LoopLoad:
    """Measures whether the calling thread has hardly had a pause lately."""

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
        """Return whether this thread is saturated. Call it often, from one thread only."""
        now = self._monotonic()
        passed_s = now - self._since
        if passed_s >= _WINDOW_S:
            computed = self._computed()
            share = (computed - self._before) / passed_s
            self._saturated = share >= (_ROOM_SHARE if self._saturated else _SATURATED_SHARE)
            self._since, self._before = now, computed
        return self._saturated
