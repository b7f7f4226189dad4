"""The log writer: two queues of writes, each write one commit for its whole batch.

Begins and changes have a queue each, so that neither waits for the other. A
batch whose outcome is unknown is written again until it is known. The log
recognises what took effect (`ports.Log`), so nothing is guessed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from coordinator.core.errors import LogUnavailable
from coordinator.core.model import Branch, Transaction
from coordinator.core.notes import NOTE_CHARACTERS_MAX
from coordinator.engine.flush_policy import MAX_IN_FLIGHT
from coordinator.engine.observer import NULL_OBSERVER, Anomaly, Observer
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log, Record
from tcc._internal.batcher import Batcher, FlushPolicy

T = TypeVar("T")

BATCH_MAX = 512
BATCH_BYTES_MAX = 8 * 2**20
# Besides payloads, results and notes: labels and names of a transaction; names and content types of a branch.
_TEXTS_BYTES = 512
_NAMES_BYTES = 1_024
# A note beside its text.
_NOTE_BYTES = 64
# Pauses between attempts while the log is unavailable.
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0

logger = structlog.get_logger(__name__)


class LogWriter:
    """Writes transactions in batches, and returns the result of each."""

    def __init__(
        self,
        log: Log,
        *,
        on_begun: Callable[[Sequence[Transaction], Sequence[Record | None]], None],
        on_saved: Callable[[Sequence[Transaction], Sequence[bool]], None],
        on_refused: Callable[[Sequence[Transaction], LogUnavailable], None],
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

        def batcher(send: Callable[[list[Transaction]], Awaitable[None]]) -> Batcher[Transaction]:
            return Batcher(
                send,
                items_max=BATCH_MAX,
                bytes_max=BATCH_BYTES_MAX,
                size=_size,
                max_in_flight=MAX_IN_FLIGHT,
                flush_policy=flush_policy,
            )

        self._begins = batcher(self._begin)
        self._saves = batcher(self._save)
        self.available = True

    def put(self, tx: Transaction) -> None:
        (self._saves if tx.version else self._begins).put(tx)

    @property
    def backlog(self) -> int:
        return len(self._begins) + len(self._saves)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._begins.run())
            tasks.create_task(self._saves.run())

    def log_answered(self) -> None:
        """Record that the log can be reached (again)."""
        if not self.available:
            self.available = True
            self._on_availability(True)
            self._observer.anomaly(Anomaly.LOG_RECOVERED)
            logger.info("log is available again")

    def log_failed(self, error: LogUnavailable) -> None:
        """Record that the log is unavailable: refuse begins that are still queued, keep everything else."""
        if self.available:
            self.available = False
            self._on_availability(False)
            self._observer.anomaly(Anomaly.LOG_UNAVAILABLE, error=error.message)
            logger.warning("log is unavailable", error=error.message)
        self._on_refused(self._begins.withdraw(), error)

    async def _begin(self, batch: list[Transaction]) -> None:
        asked_at = self._clock.now()
        others = await self._until_known(lambda: self._log.transaction_begin(batch))
        self._observer.written("begin", len(batch), self._clock.now() - asked_at)
        self._on_begun(batch, others)

    async def _save(self, waiting: list[Transaction]) -> None:
        # A transaction may have been lost, and taken again, while its change waited here.
        batch = [tx for tx in waiting if self._is_wanted(tx)]
        if not batch:
            return
        asked_at = self._clock.now()
        written = await self._until_known(lambda: self._log.transaction_save(batch))
        self._observer.written("change", len(batch), self._clock.now() - asked_at)
        self._on_saved(batch, written)

    async def _until_known(self, write: Callable[[], Awaitable[T]]) -> T:
        wait_s = RETRY_FIRST_S
        while True:
            try:
                outcome = await write()
            except LogUnavailable as error:
                self._observer.write_failed()
                self.log_failed(error)
            else:
                self.log_answered()
                return outcome
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)


def _size(tx: Transaction) -> int:
    return sum([_branch_size(branch) for branch in tx.branches]) + _TEXTS_BYTES


def _branch_size(branch: Branch) -> int:
    notes = len(branch.notes) * (4 * NOTE_CHARACTERS_MAX + _NOTE_BYTES)
    return len(branch.spec.payload) + len(branch.result) + 4 * len(branch.last_error) + notes + _NAMES_BYTES
