"""A log of several cells behind one facade: `ports.Log` and `ports.OperatorLog`.

A cell is a complete log in a schema of its own. The cell of a transaction is a hash of its gid, so
that every coordinator finds it, and their number never changes. What concerns one transaction goes to
its cell. Lists are merged: their order is the same in all cells. What concerns no transaction
(participants, reports of coordinators, secrets) is in the home cell. Each cell has an audit chain of
its own, because a command and its record are written in one database transaction.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar
from zlib import crc32

from msgspec.structs import replace

from coordinator.core.audit import AuditEntry, AuditHead, AuditRecord, SignedHead
from coordinator.core.errors import LogError
from coordinator.core.model import Transaction
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.log.schema import HOME
from coordinator.log.servers import History
from coordinator.log.store import LogPool, PostgresLog, Step
from coordinator.ports.log import ListFilter, ListPosition, Record
from coordinator.ports.operator_log import (
    Adoption,
    AuditFilter,
    Backlog,
    CoordinatorRecord,
    CoordinatorReport,
    OperatorDirectives,
    ParticipantRecord,
)
from tcc._internal.failpoint import failpoint

T = TypeVar("T")
# A page of a large list has about this many rows of each cell.
_PAGE_OF_CELL = 100
# More than there can be cells: a position in the merged audit list is a time and a cell.
_CELLS = 1_024
_TRANSACTION = "transaction/"


def cell_of(gid: str, count: int) -> int:
    """Return the cell of a transaction: the CRC-32 of its gid (in UTF-8), modulo their number."""
    return crc32(gid.encode()) % count


class LogServers:
    """The connections of a coordinator to the servers of its log. Cells at one URL share them."""

    def __init__(self, *, connections: int = 4, statement_timeout_s: float = 10.0, cells: int = 1) -> None:
        self._connections = connections
        self._statement_timeout_s = statement_timeout_s
        self._cells = cells
        self._pools: dict[str, tuple[LogPool, OperatorPool]] = {}

    def at(self, url: str) -> tuple[LogPool, OperatorPool]:
        """Return the connections to the server at `url`."""
        if url not in self._pools:
            history = History()
            self._pools[url] = (
                LogPool(
                    url,
                    connections=self._connections,
                    statement_timeout_s=self._statement_timeout_s,
                    history=history,
                    cells=self._cells,
                ),
                OperatorPool(url, statement_timeout_s=self._statement_timeout_s, history=history),
            )
        return self._pools[url]

    async def close(self, keep: Iterable[str] = ()) -> None:
        """Close the connections to all servers but these."""
        for url in self._pools.keys() - set(keep):
            for pool in self._pools.pop(url):
                await pool.close()


class CellsLog:
    """The log of several cells. See `ports.Log`."""

    def __init__(self, cells: Sequence[PostgresLog]) -> None:
        self.cells = cells
        self.name = cells[HOME].name

    def cell_of(self, gid: str) -> int:
        """See `ports.Log`."""
        return cell_of(gid, len(self.cells))

    def place_of(self, cell: int) -> object:
        """See `ports.Log`.

        A Citus cluster has cells on several machines, where a common transaction would be committed in two
        phases. There each cell is a place of its own.
        """
        pool = self.cells[cell].pool
        return (pool, cell) if pool.is_distributed else pool

    async def transaction_begin_together(
        self, by_cell: Mapping[int, Sequence[Transaction]]
    ) -> dict[int, list[Record | None]]:
        """See `ports.Log`."""
        first = {
            cell: list({tx.gid: tx for tx in reversed(begun)}.values()) for cell, begun in by_cell.items()
        }
        failpoint("log.begin.before")
        counts = await self._execute(
            {cell: self.cells[cell].step_of_begin(some) for cell, some in first.items()}
        )
        failpoint("log.begin.after")
        # A cell that has a gid already reads what is there; repeating an insert changes nothing.
        return {
            cell: [None] * len(begun)
            if counts[cell] == len(begun)
            else await self.cells[cell].transaction_begin(begun)
            for cell, begun in by_cell.items()
        }

    async def transaction_save_together(
        self, by_cell: Mapping[int, Sequence[Transaction]]
    ) -> dict[int, list[bool | None]]:
        """See `ports.Log`."""
        failpoint("log.save.before")
        counts = await self._execute(
            {cell: self.cells[cell].step_of_save(some) for cell, some in by_cell.items()}
        )
        failpoint("log.save.after")
        return {
            cell: [True] * len(changed)
            if counts[cell] == len(changed)
            else await self.cells[cell].transaction_save(changed)
            for cell, changed in by_cell.items()
        }

    async def _execute(self, steps: Mapping[int, Step]) -> dict[int, int]:
        """Run one statement in each of these cells, in one transaction. Return the number of rows of each."""
        (pool,) = {self.cells[cell].pool for cell in steps}
        # Batches that lock rows in one order cannot deadlock.
        cells = sorted(steps)
        results = await pool.statements.execute_together([steps[cell] for cell in cells])
        return {cell: result.count for cell, result in zip(cells, results, strict=True)}

    def _of(self, gid: str) -> PostgresLog:
        return self.cells[self.cell_of(gid)]

    async def transaction_get(self, gids: Sequence[str]) -> dict[str, Record]:
        """See `ports.Log`."""
        by_cell = _by_cell(gids, len(self.cells))
        found = await _of_all(self.cells[cell].transaction_get(some) for cell, some in by_cell.items())
        return {gid: record for records in found for gid, record in records.items()}

    async def transaction_list(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """See `ports.Log`."""
        return await self._merged(PostgresLog.transaction_list, chosen, after, limit)

    async def transaction_search(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """See `ports.Log`."""
        return await self._merged(PostgresLog.transaction_search, chosen, after, limit)

    async def _merged(
        self,
        page_of: Callable[..., Awaitable[tuple[list[Record], ListPosition | None]]],
        chosen: ListFilter,
        after: ListPosition | None,
        limit: int,
    ) -> tuple[list[Record], ListPosition | None]:
        """Merge a page of each cell. None is shown that is older than what a cell has not shown yet."""
        by_cell = _by_cell(chosen.gids, len(self.cells))
        asked = {cell: replace(chosen, gids=tuple(some)) for cell, some in by_cell.items()}
        if not asked:
            asked = dict.fromkeys(range(len(self.cells)), chosen)
        most = min(limit, max(_PAGE_OF_CELL, 2 * limit // len(asked)))
        pages = await _of_all(
            page_of(self.cells[cell], own, after=after, limit=most) for cell, own in asked.items()
        )
        ends = [end for _, end in pages if end is not None]
        end = max(ends, key=_order, default=None)
        merged = sorted(
            ((_order(_position(record)), record) for records, _ in pages for record in records),
            key=itemgetter(0),
            reverse=True,
        )
        shown = [record for order, record in merged if end is None or order >= _order(end)]
        if len(shown) > limit:
            return shown[:limit], _position(shown[limit - 1])
        return shown, end

    async def transaction_take(self, gid: str, *, version: int) -> Record | None:
        """See `ports.Log`."""
        return await self._of(gid).transaction_take(gid, version=version)

    async def transaction_quarantine(self, gid: str, *, version: int) -> bool:
        """See `ports.Log`."""
        return await self._of(gid).transaction_quarantine(gid, version=version)

    async def transaction_release(self) -> int:
        """See `ports.Log`."""
        return sum(await _of_all(cell.transaction_release() for cell in self.cells))

    async def coordinator_leave(self) -> None:
        """See `ports.Log`."""
        await _of_all(cell.coordinator_leave() for cell in self.cells)


class CellsOperatorLog:
    """The log of several cells for operators. See `ports.OperatorLog`."""

    def __init__(self, cells: Sequence[PostgresOperatorLog]) -> None:
        self.cells = cells
        self._home = cells[HOME]

    def _of(self, gid: str) -> PostgresOperatorLog:
        return self.cells[cell_of(gid, len(self.cells))]

    def _of_target(self, target: str) -> PostgresOperatorLog:
        """Return the cell whose audit chain has what is done to a target."""
        if not target.startswith(_TRANSACTION):
            return self._home
        return self._of(target.removeprefix(_TRANSACTION))

    # --- transactions ------------------------------------------------------------------

    async def transaction_command(self, tx: Transaction, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`."""
        return await self._of(tx.gid).transaction_command(tx, entry)

    async def transaction_brief(self, gids: Sequence[str]) -> dict[str, Transaction | None]:
        """See `ports.OperatorLog`."""
        by_cell = _by_cell(gids, len(self.cells))
        found = await _of_all(self.cells[cell].transaction_brief(some) for cell, some in by_cell.items())
        return {gid: tx for some in found for gid, tx in some.items()}

    async def transaction_adoption(self, gid: str) -> Adoption | None:
        """See `ports.OperatorLog`."""
        return await self._of(gid).transaction_adoption(gid)

    async def coordinator_owned(self) -> dict[str, int]:
        """See `ports.OperatorLog`."""
        return _summed(await _of_all(cell.coordinator_owned() for cell in self.cells))

    async def backlog(self) -> Backlog:
        """See `ports.OperatorLog`."""
        counted = await _of_all(cell.backlog() for cell in self.cells)
        oldest = min(
            (one for one in counted if one.oldest_created_at is not None),
            key=lambda one: one.oldest_created_at or 0.0,
            default=counted[HOME],
        )
        return Backlog(
            at=counted[HOME].at,
            count_max=counted[HOME].count_max,
            capped=any(one.capped for one in counted),
            by_state=_summed(one.by_state for one in counted),
            parked=sum(one.parked for one in counted),
            stuck=sum(one.stuck for one in counted),
            held=sum(one.held for one in counted),
            oldest_gid=oldest.oldest_gid,
            oldest_created_at=oldest.oldest_created_at,
            waiting_on=_summed(one.waiting_on for one in counted),
        )

    # --- what is in the home cell -------------------------------------------------------

    async def participant_list(self) -> dict[str, ParticipantRecord]:
        """See `ports.OperatorLog`."""
        return await self._home.participant_list()

    async def participant_change(self, changed: ParticipantRecord, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`."""
        return await self._home.participant_change(changed, entry)

    async def coordinator_list(self) -> list[CoordinatorRecord]:
        """See `ports.OperatorLog`. Leases are those of the home cell."""
        return await self._home.coordinator_list()

    async def coordinator_request_drain(self, coordinator_id: str, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`."""
        return await self._home.coordinator_request_drain(coordinator_id, entry)

    async def coordinator_report(self, report: CoordinatorReport) -> OperatorDirectives:
        """See `ports.OperatorLog`."""
        return await self._home.coordinator_report(report)

    async def confirmation_key(self) -> bytes:
        """See `ports.OperatorLog`."""
        return await self._home.confirmation_key()

    # --- the audit chains ----------------------------------------------------------------

    async def audit_append(self, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`. The record is in the chain of its target."""
        return await self._of_target(entry.target).audit_append(entry)

    def audit_list_position(self, record: AuditRecord) -> int:
        """See `ports.OperatorLog`: by time, and by cell for records of one time."""
        return record.at_us * _CELLS + record.cell

    async def audit_list(self, chosen: AuditFilter, *, before: int | None, limit: int) -> list[AuditRecord]:
        """See `ports.OperatorLog`. Within a chain, times increase."""
        cells: Iterable[PostgresOperatorLog] = self.cells
        if chosen.target:
            cells = [self._of_target(chosen.target)]
        if chosen.cell is not None:
            cells = [cell for cell in cells if cell.cell == chosen.cell]
        found = await _of_all(
            cell.audit_list(chosen, before=None, limit=limit, before_us=_before_us(before, cell.cell))
            for cell in cells
        )
        records = [record for some in found for record in some]
        return sorted(records, key=self.audit_list_position, reverse=True)[:limit]

    async def audit_head(self) -> AuditHead:
        """See `ports.OperatorLog`. That of the home cell; the others have their own."""
        return await self._home.audit_head()

    async def audit_head_append(self, signed: SignedHead) -> None:
        """See `audit_head`."""
        await self._home.audit_head_append(signed)

    async def audit_head_list(self, key_id: str, limit: int) -> list[SignedHead]:
        """See `audit_head`."""
        return await self._home.audit_head_list(key_id, limit)

    async def audit_after(self, sequence: int, limit: int) -> list[AuditRecord]:
        """See `audit_head`."""
        return await self._home.audit_after(sequence, limit)


def _before_us(before: int | None, cell: int) -> int | None:
    """Return the moment before which a cell's records are behind a position of the merged list."""
    if before is None:
        return None
    at_us, last_cell = divmod(before, _CELLS)
    return at_us + 1 if cell < last_cell else at_us


def _by_cell(gids: Iterable[str], count: int) -> dict[int, list[str]]:
    by_cell: dict[int, list[str]] = {}
    for gid in gids:
        by_cell.setdefault(cell_of(gid, count), []).append(gid)
    return by_cell


async def _of_all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Return the results of calls made side by side. All have ended before the first error is raised."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, LogError)):
        raise error
    return [result for result in results if not isinstance(result, BaseException)]


def _summed(counts: Iterable[Mapping[Any, int]]) -> dict[Any, int]:
    total: dict[Any, int] = {}
    for some in counts:
        for key, count in some.items():
            total[key] = total.get(key, 0) + count
    return total


def _order(position: ListPosition) -> tuple[int, str]:
    return position.created_at_us, position.gid


def _position(record: Record) -> ListPosition:
    return ListPosition(created_at_us=round(record.created_at * 1e6), gid=record.tx.gid)
