"""The metrics of the locks, for Prometheus: what is held and waited for, and what this process did."""

import bisect
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager

from sqlalchemy.ext.asyncio import AsyncEngine

from participants.locks import store
from participants.metrics_server import serving_text

_WAIT_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class LockMetrics:
    """Counts the Trys of this process. A batch that the database makes it run again counts twice."""

    def __init__(self) -> None:
        self._acquired = 0
        self._refused = 0
        self._waited_s = 0.0
        self._waits = [0] * (len(_WAIT_BOUNDS_S) + 1)

    def tried(self, *, acquired: int, refused: int, waits_ms: Sequence[int]) -> None:
        self._acquired += acquired
        self._refused += refused
        for wait_ms in waits_ms:
            self._waited_s += wait_ms / 1000
            self._waits[bisect.bisect_left(_WAIT_BOUNDS_S, wait_ms / 1000)] += 1

    def text(self, held: store.Held, now_ms: int) -> str:
        """Return all metrics in Prometheus' text format."""
        return "\n".join(self._lines(held, now_ms)) + "\n"

    def _lines(self, held: store.Held, now_ms: int) -> Iterator[str]:
        yield "# TYPE tcc_locks_held_keys gauge"
        yield f"tcc_locks_held_keys {held.held}"
        yield "# TYPE tcc_locks_oldest_held_seconds gauge"
        yield f"tcc_locks_oldest_held_seconds {_age_s(held.held_since_ms, now_ms)}"
        yield "# TYPE tcc_locks_waited_for_keys gauge"
        yield f"tcc_locks_waited_for_keys {held.waiting}"
        yield "# TYPE tcc_locks_longest_wait_seconds gauge"
        yield f"tcc_locks_longest_wait_seconds {_age_s(held.waiting_since_ms, now_ms)}"
        yield "# TYPE tcc_locks_refused_total counter"
        yield f"tcc_locks_refused_total {self._refused}"
        yield "# TYPE tcc_locks_wait_seconds histogram"
        counts = itertools.accumulate(self._waits)
        for bound_s, count in zip((*_WAIT_BOUNDS_S, "+Inf"), counts, strict=True):
            yield f'tcc_locks_wait_seconds_bucket{{le="{bound_s}"}} {count}'
        yield f"tcc_locks_wait_seconds_sum {self._waited_s}"
        yield f"tcc_locks_wait_seconds_count {self._acquired}"


def _age_s(since_ms: int | None, now_ms: int) -> float:
    return 0.0 if since_ms is None else max(0.0, (now_ms - since_ms) / 1000)


def serving_metrics(
    metrics: LockMetrics, database: AsyncEngine, address: str
) -> AbstractAsyncContextManager[None]:
    """Listen for Prometheus during the block."""

    async def text() -> str:
        async with database.connect() as db:
            held = await store.held(db)
        return metrics.text(held, time.time_ns() // 1_000_000)

    return serving_text(text, address)
