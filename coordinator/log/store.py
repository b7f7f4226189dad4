"""The transaction log in PostgreSQL: `ports.Log`.

A transaction takes three writes, each one statement and one commit for a whole
batch: the insert, the decision, the completion. Three rules keep them sound:

- *Compare and set.* A save names the version that it knows and changes only rows
that are ours: we are the owner, and the row is neither parked nor ended. The owner
stays in a row when it is parked or ended; `next_attempt_at` and `ended_at` show that
no coordinator drives it. So a row shows who wrote it last.
- *Outcome unknown.* If a connection is lost, it is unknown whether its statement took
effect, and LogUnavailable reports that. The caller repeats the call. If the repeat
does not find the rows unchanged, they are read: if they hold exactly what we would
have written, we wrote it.
- *Lost claims.* After a takeover no caller knows which rows to ask for again, so every
such call leaves its own mark (`claim`) on the rows it takes. If the response was
lost, the rows are found by that mark, and returned by the next claim. The marks are
searched for a while longer: a slow server may execute a statement after its sender
has gone.
- *Quarantine.* A row that cannot be used (`rows.record`) is held as an operator would hold it,
so that it is never due, never decided and never deleted, and no claim meets it again. If the
database itself cannot return a row, calls for many rows are repeated row by row.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

import msgspec

from coordinator.core.errors import LogError, LogRejected, SearchTooLong
from coordinator.core.model import HELD, Transaction
from coordinator.log import outcomes, statements
from coordinator.log.backlog import participants_waited_for
from coordinator.log.connection import StatementResult
from coordinator.log.connections import Connections
from coordinator.log.erasure import erase
from coordinator.log.failures import StatementTooLong
from coordinator.log.parameters import timestamp
from coordinator.log.rows import (
    Columns,
    Row,
    full_columns,
    insert_columns,
    is_begun,
    is_plain,
    is_saved,
    plain_columns,
    record,
    row_bytes,
)
from coordinator.log.schema import HOME
from coordinator.log.servers import History
from coordinator.log.statements import Statement, in_cell
from coordinator.ports.log import ListFilter, ListPosition, Record
from coordinator.ports.outcomes import Outcome, OutcomePosition, OutcomeReader
from tcc._internal.failpoint import failpoint

# A coordinator that has been gone for this long, and drives nothing, is deleted.
_COORDINATOR_GONE_S = 24 * 3600.0
# How long the mark of a lost claim is searched for. A server ends each statement long before.
_LOST_CLAIM_KEPT_S = 60.0
# Lists are read in pieces, and end with the piece that makes them this large: a row may have megabytes.
_LIST_ROWS = 100
_LIST_BYTES = 8 * 2**20
# A statement, and its parameters by name.
Step: TypeAlias = tuple[Statement, Mapping[str, Any]]


class LogPool:
    """The connections of a coordinator to one server of the log, which the cells there share.

    Statements share at most `connections` of them; reads by gid, which callers ask for, at most half
    of those, so that no number of reads delays a write by more. Heartbeats have a connection of their
    own, so that a busy log costs no coordinator its lease. Lists have one, so that a slow list delays
    no write, and operators' searches another one, so that they delay no list.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int = 4,
        statement_timeout_s: float = 10.0,
        history: History | None = None,
        cells: int = 1,
    ) -> None:
        """`history`: shared with the other connections of this process to the same server.

        `cells`: those that are there, at most.
        """
        self._history = history or History()
        at_most = partial(Connections, url, statement_timeout_s=statement_timeout_s, history=self._history)
        self.statements = at_most(most=connections, cells=cells)
        self.reads = asyncio.Semaphore(max(1, connections // 2))
        self.heartbeats = at_most(most=1)
        self.lists = at_most(most=1)
        self.searches = at_most(most=1)

    @property
    def is_distributed(self) -> bool:
        """Whether the cells there are on several machines, as far as this process knows."""
        return self._history.is_distributed

    async def close(self) -> None:
        for connections in (self.statements, self.heartbeats, self.lists, self.searches):
            await connections.close()


class PostgresLog:
    """The log, or a cell of it, as the coordinator `owner` sees it.

    `name` is for people: where the coordinator runs. The schema must exist (`migration.migrate`).
    """

    def __init__(
        self,
        pool: LogPool,
        *,
        owner: str,
        name: str,
        on_quarantine: Callable[[str, str], None] = lambda _gid, _why: None,
        cell: int = HOME,
    ) -> None:
        """`on_quarantine`: called with the gid of a row that a claim could not use, and why.

        `pool`: the connections to its server, which other cells there may share.
        """
        self._owner = owner
        self.name = name
        self._cell = cell
        self.use(pool)
        self._lost_claims = _LostClaims()
        self._on_quarantine = on_quarantine
        # Rows that the database can neither return nor hold.
        self._unusable: set[str] = set()

    def use(self, pool: LogPool) -> None:
        """Use these connections from now on. Others, if the cell was moved."""
        self.pool = pool
        self._connections = pool.statements
        self._reads = pool.reads
        self._heartbeats = pool.heartbeats
        self._lists = pool.lists
        self._searches = pool.searches

    async def close(self) -> None:
        """Close its connections."""
        await self.pool.close()

    @property
    def cells(self) -> "Sequence[PostgresLog]":
        """See `ports.Log`: it is one cell."""
        return (self,)

    def cell_of(self, _gid: str) -> int:
        """See `ports.Log`."""
        return 0

    def place_of(self, _cell: int) -> object:
        """See `ports.Log`."""
        return self.pool

    async def transaction_begin_together(
        self, by_cell: Mapping[int, Sequence[Transaction]]
    ) -> dict[int, list[Record | None]]:
        """See `ports.Log`."""
        return {cell: await self.transaction_begin(begun) for cell, begun in by_cell.items()}

    async def transaction_save_together(
        self, by_cell: Mapping[int, Sequence[Transaction]]
    ) -> dict[int, list[bool | None]]:
        """See `ports.Log`."""
        return {cell: await self.transaction_save(changed) for cell, changed in by_cell.items()}

    # --- the three writes ----------------------------------------------------

    async def transaction_begin(self, begun: Sequence[Transaction]) -> list[Record | None]:
        """See `ports.Log`. If a gid is in the batch twice, the first one is inserted."""
        first = {tx.gid: tx for tx in reversed(begun)}
        to_insert = _by_gid(first.values())
        assert all(tx.saved_state is None and not tx.version for tx in to_insert), "not a new transaction"
        others: dict[str, Row] = {}
        while to_insert:
            failpoint("log.begin.before")
            try:
                count = await self._insert(to_insert)
            except LogRejected:
                # An earlier try, whose outcome is unknown, may have written it.
                if len(to_insert) == 1 and (found := await self._read([to_insert[0].gid])):
                    others |= found
                    break
                raise
            failpoint("log.begin.after")
            if count == len(to_insert):
                break
            rows = await self._read([tx.gid for tx in to_insert])
            others |= rows
            # Purged between the insert and the read.
            to_insert = [tx for tx in to_insert if tx.gid not in rows]
        if len(first) < len(begun):
            others |= await self._read([tx.gid for tx in begun if first[tx.gid] is not tx])
        return [self._other(tx, others.get(tx.gid)) for tx in begun]

    async def _insert(self, begun: Sequence[Transaction]) -> int:
        """Insert transactions, and return how many were."""
        if not self.pool.is_distributed:
            return (await self._execute(statements.INSERT, **insert_columns(begun))).count
        count = 0
        for start in range(0, len(begun), statements.VALUES_MAX):
            some = begun[start : start + statements.VALUES_MAX]
            # Few sizes, so that each is prepared once. The first one fills it up: a gid is inserted once.
            size = 1 << (len(some) - 1).bit_length()
            rows = [*some, *[some[0]] * (size - len(some))]
            values = {
                statements.value_name(name, row): value
                for name, column in insert_columns(rows).items()
                for row, value in enumerate(column)
            }
            count += (await self._execute(statements.insert_values(size), **values)).count
        return count

    def _other(self, tx: Transaction, row: Row | None) -> Record | None:
        if row is None or is_begun(tx, row, self._owner):
            return None
        return record(row)

    async def transaction_save(self, changed: Sequence[Transaction]) -> list[bool | None]:
        """See `ports.Log`."""
        rows = _by_gid(changed)
        assert len({tx.gid for tx in rows}) == len(rows), "a transaction may have only one write in flight"
        if not rows:
            return []
        failpoint("log.save.before")
        statement, columns = _save(rows)
        saved = await self._execute(statement, **columns)
        failpoint("log.save.after")
        if saved.count == len(rows):
            return [True] * len(rows)
        stored = await self._read([tx.gid for tx in rows])
        return [is_saved(tx, stored[tx.gid], self._owner) if tx.gid in stored else None for tx in changed]

    def step_of_begin(self, begun: Sequence[Transaction]) -> Step:
        """Return the insert of new transactions, each gid once, for a commit of several cells."""
        return self._step(statements.INSERT, insert_columns(_by_gid(begun)))

    def step_of_save(self, changed: Sequence[Transaction]) -> Step:
        """Return the update of changed transactions for a commit of several cells."""
        return self._step(*_save(_by_gid(changed)))

    def _step(self, statement: Statement, columns: Columns) -> Step:
        return in_cell(statement, self._cell), {"owner": self._owner, **columns}

    # --- reading ---------------------------------------------------------------

    async def transaction_get(self, gids: Sequence[str]) -> dict[str, Record]:
        """See `ports.Log`."""
        try:
            async with self._reads:
                rows = await self._read(gids)
            return {gid: record(row) for gid, row in rows.items()}
        except LogRejected as error:
            if len(gids) == 1:
                return {gids[0]: _unread(gids[0], error.message)}
        return {gid: one for each in gids for gid, one in (await self.transaction_get([each])).items()}

    async def transaction_list(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """See `ports.Log`. Payloads are omitted. A page is shorter if its rows are large."""
        return await self._page(self._lists, chosen, after, limit)

    async def transaction_search(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """See `ports.Log`."""
        return await self._page(self._searches, chosen, after, limit)

    async def _page(
        self, connections: Connections, chosen: ListFilter, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        records: list[Record] = []
        size = 0
        while True:
            # Only a record that was read is known to be quarantined: see `_piece`.
            is_narrowed = chosen.quarantined is not None
            most = _LIST_ROWS if is_narrowed else min(limit + 1 - len(records), _LIST_ROWS)
            piece, piece_bytes = await self._piece(connections, _list_values(chosen, after), most)
            records += [
                one for one in piece if not is_narrowed or bool(one.quarantined) is chosen.quarantined
            ]
            if len(records) > limit:
                del records[limit:]
                return records, _position(records[-1])
            if len(piece) < most:
                return records, None
            size += piece_bytes
            after = _position(piece[-1])
            if size >= _LIST_BYTES:
                return records, after

    async def _piece(
        self, connections: Connections, values: dict[str, Any], limit: int
    ) -> tuple[list[Record], int]:
        """Return at most `limit` records, and the size of what may be large in them."""
        conditions = frozenset(values) & set(statements.LIST_CONDITIONS)
        asked = {"limit": limit, **values}
        try:
            listed = in_cell(statements.list_statement(conditions), self._cell)
            page = await connections.execute(listed, asked)
        except StatementTooLong as error:
            raise SearchTooLong("the search took too long and was given up") from error
        except LogRejected:
            # The database cannot return one of the rows. The size of the others is not known.
            listed = in_cell(statements.list_statement(conditions, keys_only=True), self._cell)
            keys = await connections.execute(listed, asked)
            return [await self._get_or_unread(gid, created_at) for gid, created_at in keys.rows], _LIST_BYTES
        return [record(row) for row in page.rows], sum(map(row_bytes, page.rows))

    async def _get_or_unread(self, gid: str, created_at: float) -> Record:
        read = await self.transaction_get([gid])
        return read.get(gid) or _unread(gid, "deleted in the meantime", created_at)

    async def _read(self, gids: Sequence[str]) -> dict[str, Row]:
        if not gids:
            return {}
        found = await self._execute(statements.GET, gids=list(gids))
        return {row[0]: row for row in found.rows}

    # --- taking over -----------------------------------------------------------

    async def transaction_take(self, gid: str, *, version: int) -> Record | None:
        """See `ports.Log`."""
        failpoint("log.take.before")
        taken = await self._take_over(statements.TAKE, gid=gid, version=version)
        failpoint("log.take.after")
        if taken:
            return taken[0]
        # We may have taken it ourselves, in a call whose response was lost.
        found = {record.tx.gid: record for record in await self._find_lost_claims()}
        return found.get(gid)

    async def transaction_claim_due(self, limits: Mapping[str, int]) -> list[Record]:
        """See `ports.Log`. Earlier claims whose responses were lost are returned first, alone."""
        if not limits:
            return []
        lost = await self._recover_lost_claims()
        if lost:
            return lost
        waiting_on, most = list(limits), list(limits.values())
        try:
            return await self._take_over(statements.CLAIM_DUE, waiting_on=waiting_on, most=most)
        except LogRejected:
            return await self._take_each(statements.FIND_DUE, waiting_on=waiting_on, limit=sum(most))

    async def transaction_waiting_on(self) -> list[str]:
        """See `ports.Log`."""
        return await participants_waited_for(self._execute)

    async def transaction_adopt(self, limit: int) -> list[Record]:
        """See `ports.Log`. Earlier claims whose responses were lost are returned first, alone."""
        lost = await self._recover_lost_claims()
        if lost:
            return lost
        try:
            return await self._take_over(statements.ADOPT, limit=limit)
        except LogRejected:
            return await self._take_each(statements.FIND_LEFT, limit=limit)

    async def transaction_quarantine(self, gid: str, *, version: int) -> bool:
        """See `ports.Log`."""
        held = await self._execute(statements.QUARANTINE, gid=gid, version=version, held=HELD)
        return held.count == 1

    async def transaction_release(self) -> int:
        """See `ports.Log`."""
        failpoint("log.release.before")
        released = await self._execute(statements.RELEASE)
        failpoint("log.release.after")
        return released.count

    async def _take_over(self, statement: Statement, **values: Any) -> list[Record]:
        claim = secrets.token_hex(8)
        try:
            failpoint("log.claim.before")
            taken = await self._execute(statement, claim=claim, **values)
        except BaseException:  # after a cancellation the outcome is unknown as well
            self._lost_claims.add(claim)
            raise
        if taken.rows:
            failpoint("log.claim.after")
        return await self._usable(taken)

    async def _take_each(self, find: Statement, **values: Any) -> list[Record]:
        """Take rows one by one, because the database rejects a claim of all of them."""
        found = await self._execute(find, known=list(self._unusable), **values)
        taken: list[Record] = []
        for gid, version in found.rows:
            try:
                taken += await self._take_over(statements.TAKE, gid=gid, version=version)
            except LogRejected as error:
                await self._quarantine(gid, version, error.explained)
        return taken

    async def _usable(self, taken: StatementResult) -> list[Record]:
        """Decode rows that are ours now, and hold those that cannot be used."""
        records = [record(row) for row in taken.rows]
        for one in records:
            if one.quarantined:
                await self._quarantine(one.tx.gid, one.tx.version, one.quarantined)
        return [one for one in records if not one.quarantined]

    async def _quarantine(self, gid: str, version: int, why: str) -> None:
        """Hold a row. If that fails, too, no other row waits for it: nothing drives it in any case."""
        try:
            await self.transaction_quarantine(gid, version=version)
        except LogError as error:
            why = f"{why}; it cannot be held: {error.explained}"
            self._unusable.add(gid)
        self._on_quarantine(gid, why)

    async def _find_lost_claims(self) -> list[Record]:
        claims = self._lost_claims.marks
        if not claims:
            return []
        return await self._usable(await self._execute(statements.FIND_CLAIMED, claims=claims))

    async def _recover_lost_claims(self) -> list[Record]:
        lost = self._lost_claims.marks
        found = await self._find_lost_claims()
        return self._lost_claims.hand_out(lost, found, monotonic())

    # --- housekeeping ------------------------------------------------------------

    async def transaction_purge(self, *, ended_before_s: float, limit: int) -> int:
        """See `ports.Log`. Delete long-gone coordinators, too."""
        failpoint("log.purge.before")
        try:
            purged = await self._execute(statements.PURGE, ended_before_s=float(ended_before_s), limit=limit)
            count = purged.count
        except LogRejected:
            count = await self._purge_each(float(ended_before_s), limit)
        failpoint("log.purge.after")
        await self._execute(statements.FORGET_COORDINATORS, gone_for_s=_COORDINATOR_GONE_S)
        return count

    async def _purge_each(self, ended_before_s: float, limit: int) -> int:
        """Delete rows one by one, because the database rejects the deletion of all of them."""
        known = list(self._unusable)
        found = await self._execute(
            statements.FIND_OLD, known=known, ended_before_s=ended_before_s, limit=limit
        )
        count = 0
        for gid, _ in found.rows:
            try:
                purged = await self._execute(statements.PURGE_ONE, gid=gid, ended_before_s=ended_before_s)
                count += purged.count
            except LogRejected as error:
                self._unusable.add(gid)
                self._on_quarantine(gid, error.message)
        return count

    async def payloads_erase(self, *, ended_before_s: float, limit: int) -> int:
        """See `ports.Log`."""
        return await erase(self._execute, ended_before_s=ended_before_s, limit=limit)

    # --- outcomes ------------------------------------------------------------------

    async def outcome_reader(self, target: str) -> OutcomeReader | None:
        """See `ports.OutcomeLog`."""
        return await outcomes.reader(self._execute, self._owner, target)

    async def outcome_position_set(self, target: str, position: OutcomePosition) -> bool:
        """See `ports.OutcomeLog`."""
        return await outcomes.set_position(self._execute, target, position)

    async def outcome_page(self, after: OutcomePosition, before: float, limit: int) -> list[Outcome]:
        """See `ports.OutcomeLog`."""
        return await outcomes.page(self._execute, after, before, limit)

    async def outcome_wait(self, target: str, gids: Sequence[str]) -> None:
        """See `ports.OutcomeLog`."""
        await self._execute(outcomes.WAIT, target=target, gid=list(gids))

    async def outcome_waiting(
        self, target: str, after: str, limit: int
    ) -> tuple[list[Outcome], list[str], str]:
        """See `ports.OutcomeLog`."""
        return await outcomes.waiting(self._execute, target, after, limit)

    async def outcome_published(self, target: str, *, ended: Sequence[str], stuck: Sequence[str]) -> None:
        """See `ports.OutcomeLog`."""
        await outcomes.published(self._execute, target, ended=ended, stuck=stuck)

    # --- this coordinator ------------------------------------------------------------

    async def coordinator_heartbeat(self, *, lease_s: float) -> float:
        """See `ports.Log`."""
        values = {"owner": self._owner, "name": self.name, "lease_s": float(lease_s)}
        failpoint("log.heartbeat.before")
        beaten = await self._heartbeats.execute(in_cell(statements.HEARTBEAT, self._cell), values)
        failpoint("log.heartbeat.after")
        lease_until: float = beaten.rows[0][0]
        return lease_until - lease_s

    async def coordinator_register_unknown(self, *, lease_s: float) -> int:
        """See `ports.Log`."""
        found = await self._execute(statements.FIND_UNKNOWN)
        if not found.rows:
            return 0
        unknown = [owner for (owner,) in found.rows]
        registered = await self._execute(statements.REGISTER_UNKNOWN, id=unknown, lease_s=float(lease_s))
        return registered.count

    async def coordinator_leave(self) -> None:
        """See `ports.Log`."""
        failpoint("log.leave.before")
        await self._heartbeats.execute(in_cell(statements.LEAVE, self._cell), {"owner": self._owner})
        failpoint("log.leave.after")

    def _execute(self, statement: Statement, **values: Any) -> Coroutine[Any, Any, StatementResult]:
        return self._connections.execute(in_cell(statement, self._cell), {"owner": self._owner, **values})


class _LostClaims:
    """The marks of claims whose responses were lost, and which of their rows were handed out."""

    def __init__(self) -> None:
        # When each was first searched for; None: not yet.
        self._looked_at: dict[str, float | None] = {}
        self._handed_out: set[tuple[str, int]] = set()

    @property
    def marks(self) -> list[str]:
        return list(self._looked_at)

    def add(self, mark: str) -> None:
        self._looked_at[mark] = None

    def hand_out(self, marks: Sequence[str], found: Sequence[Record], now: float) -> list[Record]:
        """Return what is new among `found`, after a search for `marks`."""
        for mark in marks:
            looked_at = self._looked_at.get(mark) or now
            self._looked_at[mark] = looked_at
            if now - looked_at > _LOST_CLAIM_KEPT_S:
                del self._looked_at[mark]
        if not self._looked_at:
            self._handed_out.clear()
        new = [record for record in found if (record.tx.gid, record.tx.version) not in self._handed_out]
        if self._looked_at:
            self._handed_out.update((record.tx.gid, record.tx.version) for record in new)
        return new


def _position(record: Record) -> ListPosition:
    return ListPosition(created_at_us=round(record.created_at * 1e6), gid=record.tx.gid)


def _unread(gid: str, why: str, created_at: float = 0.0) -> Record:
    """Return the record of a row that the database cannot return."""
    tx = Transaction(gid=gid, branches=(), expires_at=0.0)
    return Record(tx=tx, owner=None, created_at=created_at, quarantined=why)


def _by_gid(transactions: Any) -> list[Transaction]:
    """Sort by gid: batches that lock rows in one order cannot deadlock."""
    return sorted(transactions, key=lambda tx: tx.gid)


def _save(rows: Sequence[Transaction]) -> tuple[Statement, Columns]:
    if all(map(is_plain, rows)):
        return statements.SAVE_PLAIN, plain_columns(rows)
    return statements.SAVE_FULL, full_columns(rows)


def _list_values(chosen: ListFilter, after: ListPosition | None) -> dict[str, Any]:
    """Return the parameters of the conditions that narrow a list."""
    values: dict[str, Any] = {}
    if chosen.states:
        values["states"] = [int(state) for state in chosen.states]
    if chosen.participant:
        values["participants"] = [chosen.participant]
    if chosen.labels:
        values["labels"] = msgspec.json.encode(dict(chosen.labels)).decode()
    if chosen.initiator:
        values["initiator"] = chosen.initiator
    if chosen.tenants is not None:
        values["tenants"] = list(chosen.tenants)
    if chosen.stuck is not None:
        values["stuck"] = chosen.stuck
    if chosen.held is not None or chosen.quarantined:
        # What is quarantined is held: the database cannot find it otherwise.
        values["held"] = chosen.held is not False
    if chosen.heuristic is not None:
        values["heuristic"] = chosen.heuristic
    if chosen.gids:
        values["gids"] = list(chosen.gids)
    if _is_about_unfinished(chosen):
        values["unfinished"] = True
    if chosen.live is False:
        values["ended"] = True
    if chosen.created_after is not None:
        values["created_after"] = timestamp(chosen.created_after * 1e6)
    if chosen.created_before is not None:
        values["created_before"] = timestamp(chosen.created_before * 1e6)
    if after is not None:
        values["after_created_at"] = timestamp(after.created_at_us)
        values["after_gid"] = after.gid
    return values


def _is_about_unfinished(chosen: ListFilter) -> bool:
    """Return whether no ended transaction can match: then the many ended ones are not read."""
    only_live_states = bool(chosen.states) and not any(state.ended for state in chosen.states)
    return bool(chosen.live or chosen.stuck or chosen.held or chosen.quarantined or only_live_states)
