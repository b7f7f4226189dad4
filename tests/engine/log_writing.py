"""A log writer at work, and what it reports."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from coordinator.core.errors import LogError
from coordinator.core.model import Transaction
from coordinator.engine.clock import LogClock
from coordinator.engine.log_writer import LogWriter
from coordinator.engine.observer import Anomaly, Observer
from coordinator.ports.log import Log
from tcc._internal.batcher import FlushPolicy
from tests.log.transactions import EXPIRES_AT


class Written(Observer):
    """What the writer reports."""

    def __init__(self) -> None:
        self.done: dict[str, object] = {}
        self.refused: dict[str, LogError] = {}
        self.anomalies: list[Anomaly] = []
        # The sizes of commits.
        self.commits: list[int] = []
        self.changed_at = asyncio.Event()

    def written(self, _write: str, count: int, _span_s: float) -> None:
        self.commits.append(count)

    def results(self, batch: object, outcomes: object) -> None:
        self.done |= zip([tx.gid for tx in batch], outcomes, strict=True)  # type: ignore[attr-defined, call-overload]
        self.changed_at.set()

    def on_refused(self, batch: object, error: LogError) -> None:
        self.refused |= dict.fromkeys([tx.gid for tx in batch], error)  # type: ignore[attr-defined]
        self.changed_at.set()

    def anomaly(self, kind: Anomaly, **_facts: object) -> None:
        self.anomalies.append(kind)
        self.changed_at.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self.changed_at.clear()
                await self.changed_at.wait()


@asynccontextmanager
async def writing(log: Log) -> AsyncIterator[tuple[LogWriter, Written]]:
    written, clock = Written(), LogClock()
    clock.set(EXPIRES_AT - 100, asked_at=0.0, answered_at=0.0)
    writer = LogWriter(
        log,
        on_begun=written.results,
        on_saved=written.results,
        on_refused=written.on_refused,
        is_wanted=lambda _: True,
        flush_policy=lambda _: FlushPolicy(),
        clock=clock,
        observer=written,
    )
    task = asyncio.create_task(writer.run())
    try:
        yield writer, written
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def put(writer: LogWriter, *batch: Transaction) -> None:
    """Put items into the queue at once, so that they are one batch."""
    for tx in batch:
        writer.put(tx)
