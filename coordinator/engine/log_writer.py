"""The log writer: two queues of writes, each write one commit for its whole batch.

Begins and changes have a queue each, so that neither waits for the other. A
batch whose outcome is unknown is written again until it is known. The log
recognises what took effect (`ports.Log`), so nothing is guessed.

If the log rejects a batch, nothing of it is written, and its halves are written instead,
until only what is at fault is left. A rejected begin is refused. A rejected change is kept
and written again, alone, with pauses: its transaction waits, and the others go on.

The log counts as available unless a heartbeat or a write has failed and has not succeeded
since. Operators are notified of its return only when that has held for a while, so that a
log which fails again and again (a full disk) is one alert.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

import structlog

from coordinator.core.errors import LogError, LogRejected, LogUnavailable
from coordinator.core.model import Transaction
from coordinator.core.notes import NOTE_CHARACTERS_MAX
from coordinator.engine.flush_policy import MAX_IN_FLIGHT
from coordinator.engine.observer import NULL_OBSERVER, Anomaly, Observer
from coordinator.ports.clock import Clock
from coordinator.ports.log import LogCell, Record
from tcc._internal.batcher import Batcher, FlushPolicy

T = TypeVar("T")
# Transactions whose writes the log rejected, and why.
Rejections: TypeAlias = list[tuple[Transaction, LogRejected]]

BATCH_MAX = 512
BATCH_BYTES_MAX = 8 * 2**20
# Besides payloads, results and notes: labels and names of a transaction; names and content types of a branch.
_TEXTS_BYTES = 512
_NAMES_BYTES = 1_024
# A note: its text, and what is beside it.
_NOTE_BYTES = 4 * NOTE_CHARACTERS_MAX + 64
# Pauses between attempts while the log is unavailable.
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
# The pause before a rejected change is written again.
REJECTED_RETRY_S = 5.0
# For how long the log must be available before operators are notified of its return.
RECOVERED_AFTER_S = 5.0

logger = structlog.get_logger(__name__)


class LogWriter:
    """Writes transactions in batches, and returns the result of each."""

    def __init__(
        self,
        log: LogCell,
        *,
        on_begun: Callable[[Sequence[Transaction], Sequence[Record | None]], None],
        on_saved: Callable[[Sequence[Transaction], Sequence[bool]], None],
        on_refused: Callable[[Sequence[Transaction], LogError], None],
        is_wanted: Callable[[Transaction], bool],
        flush_policy: Callable[[], FlushPolicy],
        clock: Clock,
        observer: Observer = NULL_OBSERVER,
        on_availability: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`flush_policy`: that of commits. `on_availability`: called whenever `available` changes."""
        self._log = log
        self._on_begun = on_begun
        self._on_saved = on_saved
        self._on_refused = on_refused
        self._is_wanted = is_wanted
        self._clock = clock
        self._observer = observer
        self._on_availability = on_availability

        def batcher(
            send: Callable[[list[Transaction]], Coroutine[Any, Any, None]], items_max: int = BATCH_MAX
        ) -> Batcher[Transaction]:
            return Batcher(
                send,
                items_max=items_max,
                bytes_max=BATCH_BYTES_MAX,
                size=_size,
                max_in_flight=MAX_IN_FLIGHT,
                flush_policy=flush_policy,
            )

        self._begins = batcher(self._begin)
        self._saves = batcher(self._save)
        # Changes that were rejected, one by one.
        self._rejected_saves = batcher(self._save_again, 1)
        # What has failed and has not succeeded since: the heartbeat, and writes under way.
        self._failing: set[object] = set()
        self._recovery: asyncio.TimerHandle | None = None
        self._is_reported = False

    @property
    def available(self) -> bool:
        """Whether the log can be used, as far as this process knows."""
        return not self._failing

    def put(self, tx: Transaction) -> None:
        (self._saves if tx.version else self._begins).put(tx)

    @property
    def backlog(self) -> int:
        return len(self._begins) + len(self._saves) + len(self._rejected_saves)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._begins.run())
            tasks.create_task(self._saves.run())
            tasks.create_task(self._rejected_saves.run())

    def log_answered(self, source: object) -> None:
        """Record that `source` can use the log (again)."""
        if source not in self._failing:
            return
        self._failing.remove(source)
        if self.available:
            self._on_availability(True)
            logger.info("log is available again")
            self._recovery = asyncio.get_running_loop().call_later(RECOVERED_AFTER_S, self._report_recovery)

    def log_failed(self, source: object, error: LogError) -> None:
        """Record that `source` cannot use the log: refuse queued begins, keep everything else."""
        if self.available:
            self._on_availability(False)
            logger.warning("log is unavailable", error=error.explained)
        self._failing.add(source)
        if self._recovery is not None:
            self._recovery.cancel()
            self._recovery = None
        if not self._is_reported:
            self._is_reported = True
            self._observer.anomaly(Anomaly.LOG_UNAVAILABLE, error=error.explained)
        self._on_refused(self._begins.withdraw(), error)

    def _report_recovery(self) -> None:
        self._recovery, self._is_reported = None, False
        self._observer.anomaly(Anomaly.LOG_RECOVERED)

    async def _begin(self, batch: list[Transaction]) -> None:
        rejected: Rejections = []
        await self._write("begin", batch, self._log.transaction_begin, self._on_begun, rejected)
        _log_rejected(rejected)
        for tx, error in rejected:
            self._on_refused((tx,), error)

    async def _save(self, waiting: list[Transaction]) -> None:
        _log_rejected(await self._save_wanted(waiting))

    async def _save_again(self, waiting: list[Transaction]) -> None:
        """Write changes that were rejected before, which is in the journal."""
        await self._save_wanted(waiting)

    async def _save_wanted(self, waiting: list[Transaction]) -> Rejections:
        """Write changes; those that are rejected are written again later. Return them."""
        # A transaction may have been lost, and taken again, while its change waited here.
        batch = [tx for tx in waiting if self._is_wanted(tx)]
        rejected: Rejections = []
        if batch:
            await self._write("change", batch, self._log.transaction_save, self._on_saved, rejected)
        for tx, _ in rejected:
            asyncio.get_running_loop().call_later(REJECTED_RETRY_S, self._rejected_saves.put, tx)
        return rejected

    async def _write(
        self,
        kind: str,
        batch: list[Transaction],
        write: Callable[[Sequence[Transaction]], Awaitable[list[T]]],
        on_written: Callable[[Sequence[Transaction], Sequence[T]], None],
        rejected: Rejections,
    ) -> None:
        """Write a batch; if the log rejects it, write its halves. Add what is at fault to `rejected`."""
        asked_at = self._clock.now()
        try:
            written = await self._until_known(lambda: write(batch))
        except LogRejected as error:
            if len(batch) == 1:
                self._observer.anomaly(Anomaly.LOG_REJECTED, gid=batch[0].gid, error=error.explained)
                rejected.append((batch[0], error))
                return
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                await self._write(kind, half, write, on_written, rejected)
            return
        self._observer.written(kind, len(batch), self._clock.now() - asked_at)
        on_written(batch, written)

    async def _until_known(self, write: Callable[[], Awaitable[T]]) -> T:
        wait_s, source = RETRY_FIRST_S, object()
        try:
            while True:
                try:
                    return await write()
                except LogUnavailable as error:
                    self._observer.write_failed()
                    self.log_failed(source, error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
        finally:
            self.log_answered(source)


def _log_rejected(rejected: Rejections) -> None:
    """Log what the log rejected of a batch, in one line, however many they are."""
    if rejected:
        first, error = rejected[0]
        logger.error(
            "the log rejected writes of transactions",
            count=len(rejected),
            gid=first.gid,
            error=error.explained,
        )


def _size(tx: Transaction) -> int:
    # One pass: it runs at each write of each transaction.
    return _TEXTS_BYTES + sum(
        [
            len(b.spec.payload)
            + len(b.result)
            + 4 * len(b.last_error)
            + len(b.notes) * _NOTE_BYTES
            + _NAMES_BYTES
            for b in tx.branches
        ]
    )
