"""The log writer: queues of writes, each write one commit for its whole batch.

Begins and changes have a queue each, so that neither waits for the other. A
batch whose outcome is unknown is written again until it is known. The log
recognises what took effect (`ports.Log`), so nothing is guessed.

Cells at one place share their queues, and a batch of several cells is one commit. If that fails, each
of its cells is written alone. A cell that is unavailable, or whose write alone is under way, has queues of
its own, so that it delays no other.

If the log rejects a batch of one cell, nothing of it is written, and its halves are written instead,
until only what is at fault is left. A rejected begin is refused. A rejected change is kept
and written again, alone, with pauses: its transaction waits, and the others go on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import structlog
from msgspec import Struct

from coordinator.core.errors import LogError, LogRejected, LogUnavailable
from coordinator.core.model import Transaction
from coordinator.core.notes import NOTE_CHARACTERS_MAX
from coordinator.engine.cell_health import CellHealth
from coordinator.engine.flush_policy import MAX_IN_FLIGHT
from coordinator.engine.observer import NULL_OBSERVER, Anomaly, Observer
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log, LogCell, Record
from tcc._internal.batcher import Batcher, FlushPolicy

T = TypeVar("T")
ByCell: TypeAlias = Mapping[int, list[Transaction]]

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
# The pause before a change that was rejected, or whose row is missing, is written again.
REJECTED_RETRY_S = 5.0

logger = structlog.get_logger(__name__)


class _Kind(Struct, Generic[T], frozen=True):
    """How the writes of one kind are made, and where their results go."""

    name: str
    alone: Callable[[LogCell, Sequence[Transaction]], Awaitable[list[T]]]
    together: Callable[[ByCell], Awaitable[dict[int, list[T]]]]
    on_written: Callable[[Sequence[Transaction], Sequence[T]], None]
    on_rejected: Callable[[Transaction, LogRejected], None]


class _Queues:
    """What waits for one commit: begins, and changes. Rejected changes are written one by one."""

    def __init__(
        self, begins: Batcher[Transaction], saves: Batcher[Transaction], rejected_saves: Batcher[Transaction]
    ) -> None:
        self.begins = begins
        self.saves = saves
        self.rejected_saves = rejected_saves
        # Of all cells, those that use these.
        self.share = 1.0

    def __len__(self) -> int:
        return len(self.begins) + len(self.saves) + len(self.rejected_saves)


class LogWriter:
    """Writes transactions in batches, and returns the result of each."""

    def __init__(
        self,
        log: Log,
        *,
        on_begun: Callable[[Sequence[Transaction], Sequence[Record | None]], None],
        on_saved: Callable[[Sequence[Transaction], Sequence[bool | None]], None],
        on_refused: Callable[[Sequence[Transaction], LogError], None],
        is_wanted: Callable[[Transaction], bool],
        flush_policy: Callable[[float], FlushPolicy],
        clock: Clock,
        observer: Observer = NULL_OBSERVER,
        on_availability: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`flush_policy`: that of commits of a share of all cells.

        `on_availability`: called whenever `available` changes.
        """
        self._log = log
        self._on_refused = on_refused
        self._is_wanted = is_wanted
        self._flush_policy = flush_policy
        self._clock = clock
        self._observer = observer
        self._on_availability = on_availability
        self._was_available = True
        self._begins = _Kind(
            "begin",
            lambda cell, batch: cell.transaction_begin(batch),
            log.transaction_begin_together,
            on_begun,
            self._refuse,
        )
        self._saves = _Kind(
            "change",
            lambda cell, batch: cell.transaction_save(batch),
            log.transaction_save_together,
            on_saved,
            self._save_later,
        )
        numbers = range(len(log.cells))
        # Whether each cell can be used.
        self.cells = [
            CellHealth(
                observer=observer,
                on_availability=self._note_availability,
                on_failed=partial(self._refuse_queued, cell),
            )
            for cell in numbers
        ]
        self._queues = [self._new_queues() for _ in numbers]
        # By cell: the number of its queues.
        self._queues_of = [*numbers]
        # Those of available cells.
        self._common: list[_Queues] = []
        # By cell: how many of its batches are written alone after they failed together with others.
        self._alone = [0 for _ in numbers]
        self._tasks: asyncio.TaskGroup | None = None
        self.regroup()

    def _new_queues(self) -> _Queues:
        def batcher(
            send: Callable[[list[Transaction]], Coroutine[Any, Any, None] | None], items_max: int = BATCH_MAX
        ) -> Batcher[Transaction]:
            return Batcher(
                send,
                items_max=items_max,
                bytes_max=BATCH_BYTES_MAX,
                size=_size,
                max_in_flight=MAX_IN_FLIGHT,
                flush_policy=lambda: self._flush_policy(queues.share),
            )

        queues = _Queues(batcher(self._begin), batcher(self._save), batcher(self._save_again, 1))
        return queues

    # --- the cells ------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether at least one cell can be used, as far as this process knows."""
        return self.first_available is not None

    @property
    def first_available(self) -> int | None:
        """The first cell that can be used; None: there is none."""
        return next((number for number, cell in enumerate(self.cells) if cell.available), None)

    def check(self, gid: str) -> None:
        """Check that the cell of a transaction can be used.

        Raises:
            LogUnavailable
        """
        cell = self._log.cell_of(gid)
        if not self.cells[cell].available:
            raise self.refusal(cell)

    def refusal(self, cell: int | None = None) -> LogUnavailable:
        """Return the refusal of what needs the log, or a cell of it."""
        what = "the transaction log"
        if cell is not None and len(self.cells) > 1:
            what = f"cell {cell} of the transaction log"
        return LogUnavailable(f"{what} cannot be reached", retry_after_s=1.0)

    def regroup(self) -> None:
        """Give each cell its queues, because one has moved, become available or unavailable.

        What waits changes queues as well. What is being written goes on.
        """
        first: dict[object, int] = {}
        chosen = [
            first.setdefault(self._log.place_of(cell), cell) if self._is_healthy(cell) else cell
            for cell in range(len(self.cells))
        ]
        self._common = [self._queues[number] for number in set(chosen) if self.cells[number].available]
        for number, queues in enumerate(self._queues):
            queues.share = chosen.count(number) / len(chosen)
        if chosen == self._queues_of:
            return
        self._queues_of = chosen
        waiting = [
            tx for queues in self._queues for tx in (*queues.begins.withdraw(), *queues.saves.withdraw())
        ]
        for tx in waiting:
            self.put(tx)

    def _is_healthy(self, cell: int) -> bool:
        return self.cells[cell].available and not self._alone[cell]

    def _note_availability(self) -> None:
        self.regroup()
        if self.available is not self._was_available:
            self._was_available = self.available
            self._on_availability(self.available)

    def _refuse_queued(self, cell: int, error: LogError) -> None:
        """Refuse the begins that wait for an unavailable cell; keep everything else."""
        self._on_refused(self._queues[cell].begins.withdraw(), error)

    # --- the queues -----------------------------------------------------------

    def put(self, tx: Transaction) -> None:
        queues = self._queues[self._queues_of[self._log.cell_of(tx.gid)]]
        (queues.saves if tx.version else queues.begins).put(tx)

    def put_later(self, tx: Transaction) -> None:
        """Write a change again after a pause: its row may appear."""
        asyncio.get_running_loop().call_later(REJECTED_RETRY_S, self.put, tx)

    @property
    def backlog(self) -> int:
        return sum([len(queues) for queues in self._queues])

    @property
    def backlog_of_available(self) -> int:
        """The same without cells that are unavailable: what waits for those delays nothing else."""
        return sum([len(queues) for queues in self._common])

    async def run(self) -> None:
        """Write until cancelled."""
        # The first connections, which found out what kind of server each one is, have been made.
        self.regroup()
        async with asyncio.TaskGroup() as self._tasks:
            for queues in self._queues:
                for batcher in (queues.begins, queues.saves, queues.rejected_saves):
                    self._tasks.create_task(batcher.run())

    def _begin(self, batch: list[Transaction]) -> Coroutine[Any, Any, None] | None:
        return self._write(self._begins, batch, was_rejected=False)

    def _save(self, waiting: list[Transaction]) -> Coroutine[Any, Any, None] | None:
        return self._save_wanted(waiting, was_rejected=False)

    def _save_again(self, waiting: list[Transaction]) -> Coroutine[Any, Any, None] | None:
        """Write changes that were rejected before, which is in the journal."""
        return self._save_wanted(waiting, was_rejected=True)

    def _save_wanted(
        self, waiting: list[Transaction], *, was_rejected: bool
    ) -> Coroutine[Any, Any, None] | None:
        # A transaction may have been lost, and taken again, while its change waited here.
        batch = [tx for tx in waiting if self._is_wanted(tx)]
        return self._write(self._saves, batch, was_rejected=was_rejected) if batch else None

    def _refuse(self, tx: Transaction, error: LogRejected) -> None:
        self._on_refused((tx,), error)

    def _save_later(self, tx: Transaction, _error: LogRejected) -> None:
        queues = self._queues[self._log.cell_of(tx.gid)]
        asyncio.get_running_loop().call_later(REJECTED_RETRY_S, queues.rejected_saves.put, tx)

    # --- the writes -----------------------------------------------------------

    def _write(
        self, kind: _Kind[T], batch: list[Transaction], *, was_rejected: bool
    ) -> Coroutine[Any, Any, None] | None:
        """Return the write of a batch, one commit if its cells are at one place. `was_rejected`: before."""
        if len(self.cells) == 1:
            return self._write_alone(kind, 0, batch, was_rejected=was_rejected)
        commits = [self._commit(kind, by_cell, was_rejected=was_rejected) for by_cell in self._commits(batch)]
        if len(commits) == 1:
            return commits[0]
        # A cell has left the group since its transactions were queued. None waits for another.
        for commit in commits:
            self._start(commit)
        return None

    def _commits(self, batch: Sequence[Transaction]) -> Iterator[ByCell]:
        """Return the transactions of each commit by cell."""
        commits: dict[object, dict[int, list[Transaction]]] = {}
        for tx in batch:
            cell = self._log.cell_of(tx.gid)
            key = self._log.place_of(cell) if self._is_healthy(cell) else cell
            commits.setdefault(key, {}).setdefault(cell, []).append(tx)
        yield from commits.values()

    def _commit(self, kind: _Kind[T], by_cell: ByCell, *, was_rejected: bool) -> Coroutine[Any, Any, None]:
        if len(by_cell) == 1:
            ((cell, batch),) = by_cell.items()
            return self._write_alone(kind, cell, batch, was_rejected=was_rejected)
        return self._write_together(kind, by_cell)

    async def _write_together(self, kind: _Kind[T], by_cell: ByCell) -> None:
        asked_at = self._clock.now()
        try:
            written = await kind.together(by_cell)
        except LogError as error:
            # One of the cells may be the cause, which the others need not wait for.
            logger.debug("cells are written one by one", cells=len(by_cell), error=error.explained)
            for cell, batch in by_cell.items():
                self._alone[cell] += 1
                self._start(self._write_after_failure(kind, cell, batch))
            self.regroup()
            return
        batch = [tx for some in by_cell.values() for tx in some]
        self._observer.written(kind.name, len(batch), self._clock.now() - asked_at)
        kind.on_written(batch, [one for cell in by_cell for one in written[cell]])

    def _start(self, write: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None, "queues are flushed while the writer runs"
        self._tasks.create_task(write)

    async def _write_after_failure(self, kind: _Kind[T], cell: int, batch: list[Transaction]) -> None:
        try:
            await self._write_alone(kind, cell, batch, was_rejected=False)
        finally:
            self._alone[cell] -= 1
            self.regroup()

    async def _write_alone(
        self, kind: _Kind[T], cell: int, batch: list[Transaction], *, was_rejected: bool
    ) -> None:
        """Write a batch of one cell until its outcome is known; if the log rejects it, its halves."""
        rejected: list[tuple[Transaction, LogRejected]] = []
        # What is left to be written, and will be written in one commit each.
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                await self._until_known(kind, cell, part)
            except LogRejected as error:
                if len(part) == 1:
                    self._observer.anomaly(Anomaly.LOG_REJECTED, gid=part[0].gid, error=error.explained)
                    rejected.append((part[0], error))
                else:
                    middle = len(part) // 2
                    parts += part[middle:], part[:middle]
        if rejected and not was_rejected:
            first, why = rejected[0]
            # One line, however many they are.
            logger.error(
                "the log rejected writes of transactions",
                count=len(rejected),
                gid=first.gid,
                error=why.explained,
            )
        for tx, why in rejected:
            kind.on_rejected(tx, why)

    async def _until_known(self, kind: _Kind[T], cell: int, batch: list[Transaction]) -> None:
        """Write a batch of one cell in one commit, again and again until its outcome is known.

        Raises:
            LogRejected: nothing of it is written.
        """
        wait_s, source, health = RETRY_FIRST_S, object(), self.cells[cell]
        asked_at, written = self._clock.now(), None
        try:
            while written is None:
                try:
                    written = await kind.alone(self._log.cells[cell], batch)
                except LogUnavailable as error:
                    self._observer.write_failed()
                    health.log_failed(source, error)
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, RETRY_MAX_S)
        finally:
            health.log_answered(source)
        self._observer.written(kind.name, len(batch), self._clock.now() - asked_at)
        kind.on_written(batch, written)


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
