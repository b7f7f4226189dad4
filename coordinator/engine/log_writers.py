"""The writers of the log: one for each cell, so that one that is unavailable delays no other."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from coordinator.core.errors import LogUnavailable
from coordinator.core.model import Transaction
from coordinator.engine.log_writer import LogWriter
from coordinator.ports.log import Log


class LogWriters:
    """Give each transaction to the writer of its cell."""

    def __init__(self, log: Log, *, on_availability: Callable[[bool], None], **of_each: Any) -> None:
        """`on_availability`: called whenever `available` changes. `of_each`: see `LogWriter`."""
        self._log = log
        self._on_availability = on_availability
        self._unavailable: set[int] = set()
        self.cells: Sequence[LogWriter] = [
            LogWriter(cell, on_availability=partial(self._note, number), **of_each)
            for number, cell in enumerate(log.cells)
        ]

    def of(self, gid: str) -> LogWriter:
        """Return the writer of a transaction."""
        return self.cells[self._log.cell_of(gid)]

    def put(self, tx: Transaction) -> None:
        self.of(tx.gid).put(tx)

    @property
    def available(self) -> bool:
        """Whether at least one cell can be used, as far as this process knows."""
        return self.first_available is not None

    @property
    def first_available(self) -> int | None:
        """The first cell that can be used; None: there is none."""
        return next((number for number, writer in enumerate(self.cells) if writer.available), None)

    @property
    def backlog(self) -> int:
        return sum([writer.backlog for writer in self.cells])

    @property
    def backlog_of_available(self) -> int:
        """The same without cells that are unavailable: what waits for those delays nothing else."""
        return sum([writer.backlog for writer in self.cells if writer.available])

    def check(self, gid: str) -> None:
        """Check that the cell of a transaction can be used.

        Raises:
            LogUnavailable
        """
        if not self.of(gid).available:
            raise self.refusal(self._log.cell_of(gid))

    def refusal(self, cell: int | None = None) -> LogUnavailable:
        """Return the refusal of what needs the log, or a cell of it."""
        what = "the transaction log"
        if cell is not None and len(self.cells) > 1:
            what = f"cell {cell} of the transaction log"
        return LogUnavailable(f"{what} cannot be reached", retry_after_s=1.0)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for writer in self.cells:
                tasks.create_task(writer.run())

    def _note(self, cell: int, available: bool) -> None:  # noqa: FBT001 - a callback
        before = len(self._unavailable) < len(self.cells)
        if available:
            self._unavailable.discard(cell)
        else:
            self._unavailable.add(cell)
        after = len(self._unavailable) < len(self.cells)
        if before is not after:
            self._on_availability(after)
