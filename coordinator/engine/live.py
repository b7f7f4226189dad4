"""The live transactions: those that this process drives, and the requests that wait for a transaction.

The row in the log is the truth. The dictionary here is a cache of what this process owns. A
transaction that is parked, ended or lost to another owner leaves the cache; a request that still
waits for it watches the row instead.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import structlog

from coordinator.core.errors import GidConflict, OwnerChanged, Refused, TransactionNotFound
from coordinator.core.model import Branch, Transaction
from coordinator.engine.dispatcher import ParticipantDispatcher
from coordinator.engine.limits import TenantLimits
from coordinator.engine.waiting import Waiter, is_reached
from coordinator.ports.log import Record, quarantined
from tcc._internal.line_limiter import LineLimiter

logger = structlog.get_logger(__name__)

DUE_TICK_S = 0.1

# After this many requests that wait for one transaction, the cancelled ones among them are removed.
WAITERS_SWEPT_EVERY = 256


class LiveTransaction:
    """A transaction that this process drives, and the requests that wait for it."""

    __slots__ = ("abandoned", "begun", "conflicting_waiters", "held_bytes", "phase_began_at", "tx", "waiters")

    def __init__(self, tx: Transaction, *, begun: bool) -> None:
        self.tx = tx
        # The payloads and results that are counted for it.
        self.held_bytes = 0
        # By a request to this process; otherwise it was taken over.
        self.begun = begun
        # By the log's clock.
        self.phase_began_at = 0.0
        self.waiters: list[Waiter] = []
        # How many callers have left since the cancelled requests were last removed, at least.
        self.abandoned = 0
        # Requests for the same gid with other content, by their fingerprint. Which of them is
        # refused is not known until the log has answered which was first.
        self.conflicting_waiters: list[tuple[bytes, Waiter]] = []

    def fail_all(self, error: Refused) -> None:
        """Fail every waiting request."""
        for waiter in [*self.waiters, *(waiter for _, waiter in self.conflicting_waiters)]:
            waiter.fail(error)
        self.waiters, self.conflicting_waiters = [], []


class TenantUse:
    """What the live transactions of one tenant take up."""

    __slots__ = ("held_bytes", "live")

    def __init__(self) -> None:
        self.live = 0
        self.held_bytes = 0


class LiveTransactions:
    """The live transactions by gid, the waiting requests, and when parked transactions are due."""

    def __init__(
        self,
        dispatchers: Mapping[str, ParticipantDispatcher],
        *,
        bytes_max: int,
        cell_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """`dispatchers`: by participant; each holds the number of its live branches.

        `bytes_max`: of all payloads and results. `cell_of`: returns the cell of a gid.
        """
        self._cell_of = cell_of
        self._dispatchers = dispatchers
        self._bytes_max = bytes_max
        # A client that asks for the transactions of others does not fill the disk.
        self._foreign_lines = LineLimiter()
        # Of their payloads and results.
        self.held_bytes = 0
        # By tenant; one that is missing has no bounds.
        self.tenant_limits: Mapping[str, TenantLimits] = {}
        self.live: dict[str, LiveTransaction] = {}
        # How many of them were begun here. They arrive one by one; adopted transactions arrive in bulk.
        self.begun = 0
        # How many of them are interactive.
        self.interactive = 0
        # Only of clients that are authenticated.
        self.tenants: dict[str, TenantUse] = {}
        # Requests that wait for transactions that other coordinators drive.
        self.watched: dict[str, list[Waiter]] = {}
        # When transactions that this process parked are due, by cell, in whole ticks of DUE_TICK_S.
        self._due_ticks: dict[int, set[int]] = {}

    def remember(self, tx: Transaction, *, begun: bool) -> LiveTransaction:
        """Add a transaction."""
        entry = self.live[tx.gid] = LiveTransaction(tx, begun=begun)
        self.begun += begun
        self.interactive += tx.interactive
        if tx.tenant:
            self.tenants.setdefault(tx.tenant, TenantUse()).live += 1
        self.count(entry, tx.branches, 1)
        self.resize(entry)
        return entry

    def forget(self, entry: LiveTransaction) -> None:
        """Remove a transaction. Its waiters are the caller's to move or to answer."""
        del self.live[entry.tx.gid]
        self.begun -= entry.begun
        self.interactive -= entry.tx.interactive
        if entry.tx.tenant:
            self.tenants[entry.tx.tenant].live -= 1
        self.count(entry, entry.tx.branches, -1)
        self._hold(entry, 0)

    def count(self, entry: LiveTransaction, branches: Sequence[Branch], change: int) -> None:
        """Change the number of live branches of each branch's participant by `change`."""
        dispatchers = self._dispatchers
        for branch in branches:
            dispatcher = dispatchers.get(branch.spec.participant)
            if dispatcher is not None:
                dispatcher.live += change
                dispatcher.begun += change * entry.begun

    def resize(self, entry: LiveTransaction) -> None:
        """Count the payloads and results of a transaction that has got more of them."""
        self._hold(
            entry, sum([len(branch.spec.payload) + len(branch.result) for branch in entry.tx.branches])
        )

    def _hold(self, entry: LiveTransaction, size: int) -> None:
        change, entry.held_bytes = size - entry.held_bytes, size
        self.held_bytes += change
        if entry.tx.tenant:
            self.tenants[entry.tx.tenant].held_bytes += change

    def has_room(self, tx: Transaction, size: int) -> bool:
        """Return whether a transaction may hold `size` bytes more."""
        limits = self.tenant_limits.get(tx.tenant)
        return self.held_bytes + size <= self._bytes_max and (
            limits is None or self.tenants[tx.tenant].held_bytes + size <= limits.bytes_max
        )

    def check_tenant(self, tx: Transaction, tenant: str | None) -> None:
        """Check that a transaction belongs to a tenant. None: any may have it.

        Raises:
            TransactionNotFound
        """
        if tenant is None or tx.tenant == tenant:
            return

        def write(omitted: int) -> None:
            logger.warning(
                "another tenant's transaction was asked for", gid=tx.gid, tenant=tenant, omitted=omitted
            )

        self._foreign_lines.write(tenant, write)
        raise not_found(tx.gid)

    def unsaved(self, gid: str) -> LiveTransaction | None:
        """Return the live transaction of this gid if its begin is not durable yet."""
        entry = self.live.get(gid)
        return entry if entry is not None and entry.tx.saved_state is None else None

    # --- requests that wait -----------------------------------------------

    def wait_for(self, entry: LiveTransaction, waiter: Waiter) -> None:
        """Settle the request if its milestone is reached; otherwise let it wait."""
        if is_reached(waiter.milestone, entry.tx, waiter.branch_id):
            waiter.settle(entry.tx)
            return
        if len(entry.waiters) % WAITERS_SWEPT_EVERY == WAITERS_SWEPT_EVERY - 1:
            entry.waiters = [other for other in entry.waiters if not other.is_cancelled()]
        entry.waiters.append(waiter)

    def abandon(self, gid: str) -> None:
        """Record that a caller has left. Cancelled requests are removed when they are the majority.

        Each of them would keep a page of memory in use for as long as the transaction is live.
        """
        entry = self.live.get(gid)
        if entry is None:
            return
        entry.abandoned += 1
        if entry.abandoned * 2 > len(entry.waiters):
            entry.waiters = [other for other in entry.waiters if not other.is_cancelled()]
            entry.abandoned = 0

    def settle(self, entry: LiveTransaction) -> None:
        """Settle the requests whose milestone the transaction has reached."""
        waiters = entry.waiters
        if not waiters:
            return
        entry.waiters = []
        for waiter in waiters:
            self.wait_for(entry, waiter)

    def settle_or_watch(self, record: Record, waiter: Waiter) -> None:
        """Answer a request from the row of a transaction, or let it watch that row."""
        tx = record.tx
        if waiter.is_cancelled():
            return
        if record.quarantined:
            waiter.fail(quarantined(tx.gid, record.quarantined))
            return
        if is_reached(waiter.milestone, tx, waiter.branch_id):
            waiter.settle(tx)
        elif waiter.is_command and not tx.state.decided:
            # It was applied to a memory that no longer exists, also if the transaction is live here again.
            waiter.fail(owner_changed())
        elif tx.gid in self.live:
            self.wait_for(self.live[tx.gid], waiter)
        else:
            self.watched.setdefault(tx.gid, []).append(waiter)

    def settle_watched(self, gids: Sequence[str], records: Mapping[str, Record]) -> int:
        """Answer requests that watch `gids`, now that `records` have been read for them.

        Return how many transactions need no watching any more.
        """
        for gid in gids:
            record = records.get(gid)
            for waiter in self.watched.pop(gid, ()):
                if record is None:
                    waiter.fail(not_found(gid))
                else:
                    self.settle_or_watch(record, waiter)
        return sum(gid not in self.watched for gid in gids)

    def fail_waiters(self, error: Refused) -> None:
        """Fail every request that still waits."""
        for entry in self.live.values():
            entry.fail_all(error)
        for waiters in self.watched.values():
            for waiter in waiters:
                waiter.fail(error)
        self.watched.clear()

    # --- transactions that leave ------------------------------------------

    def park(self, entry: LiveTransaction) -> None:
        """Forget a parked transaction, and remember when it is due.

        A command that came while the row was written has changed nothing. It has to be sent again.
        """
        self.schedule_due(entry.tx.gid, entry.tx.next_attempt_at)
        self._leave(entry, fail_commands=not entry.tx.state.decided)

    def lose(self, entry: LiveTransaction) -> None:
        """Forget a transaction that another coordinator has taken over."""
        logger.debug("transaction was taken over by another coordinator", gid=entry.tx.gid)
        self._leave(entry, fail_commands=True)

    def _leave(self, entry: LiveTransaction, *, fail_commands: bool) -> None:
        """Forget a transaction. Its waiters watch the row, except for commands that are to fail."""
        self.forget(entry)
        for waiter in entry.waiters:
            if fail_commands and waiter.is_command:
                waiter.fail(owner_changed())
            else:
                self.watched.setdefault(entry.tx.gid, []).append(waiter)

    def move_waiters(self, entry: LiveTransaction, other: Record) -> None:
        """Let the requests of a forgotten entry wait for the transaction of `other` instead.

        If the entry was not durable, its gid turned out to be taken: by an earlier
        delivery of one of these requests, or by another transaction. Commands were
        applied to a memory that no longer exists. They have to be sent again.
        """
        waiters = [(entry.tx.fingerprint, waiter) for waiter in entry.waiters]
        for fingerprint, waiter in waiters + entry.conflicting_waiters:
            if fingerprint != other.tx.fingerprint and not other.quarantined:
                waiter.fail(gid_conflict(entry.tx.gid))
            elif waiter.is_command and not other.quarantined:
                waiter.fail(owner_changed())
            else:
                self.settle_or_watch(other, waiter)

    # --- parked transactions that are due ---------------------------------

    def schedule_due(self, gid: str, at: float) -> None:
        """Remember that a transaction in the log is due at `at`."""
        self._due_ticks.setdefault(self._cell_of(gid), set()).add(math.ceil(at / DUE_TICK_S))

    def pop_due(self, now: float, cell: int) -> bool:
        """Return whether anything scheduled in a cell is due; each moment is reported once."""
        ticks = self._due_ticks.get(cell, set())
        due = {tick for tick in ticks if tick * DUE_TICK_S <= now}
        ticks -= due
        return bool(due)


def gid_conflict(gid: str) -> GidConflict:
    """Return the refusal of a gid that is taken."""
    return GidConflict(
        f"transaction {gid!r} exists with different content: "
        "branches, payloads, stages, not_before or labels differ",
        metadata={"gid": gid},
    )


def not_found(gid: str) -> TransactionNotFound:
    """Return the refusal of a gid that the log does not hold."""
    return TransactionNotFound(f"no transaction {gid!r}", metadata={"gid": gid})


def owner_changed() -> OwnerChanged:
    """Return the refusal of a command whose transaction was lost."""
    return OwnerChanged("another coordinator drives the transaction now", retry_after_s=0.05)
