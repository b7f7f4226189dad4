"""The port for the transaction log."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from coordinator.core.errors import TransactionQuarantined
from coordinator.core.model import (
    Transaction,
    TransactionState,
)


class Record(Struct, frozen=True, kw_only=True):
    """A transaction as the log holds it. Times are seconds since the Unix epoch; None: not yet."""

    tx: Transaction
    # The coordinator that drives it; None while it is parked or ended.
    owner: str | None
    created_at: float
    decided_at: float | None = None
    ended_at: float | None = None
    # The dead coordinator that it was taken over from last; empty: none.
    adopted_from: str = ""
    # Why its row cannot be used; empty: it can. `tx` then holds what could be read, for people,
    # and must not be driven.
    quarantined: str = ""

    def usable(self) -> "Record":
        """Return this record.

        Raises:
            TransactionQuarantined
        """
        if self.quarantined:
            raise quarantined(self.tx.gid, self.quarantined)
        return self


def quarantined(gid: str, why: str) -> TransactionQuarantined:
    """Return the refusal of a request that needs a transaction whose row cannot be used."""
    return TransactionQuarantined(
        f"transaction {gid!r} is quarantined, because its row in the log cannot be used: {why}",
        metadata={"gid": gid},
    )


class ListFilter(Struct, frozen=True, kw_only=True):
    """The filter of a list of transactions. Empty fields do not narrow it."""

    states: tuple[TransactionState, ...] = ()
    participant: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    initiator: str = ""
    stuck: bool | None = None
    created_after: float | None = None
    created_before: float | None = None
    held: bool | None = None
    heuristic: bool | None = None
    # True: only those that are held because their rows cannot be used.
    quarantined: bool | None = None
    # True: only those that have not ended; False: only those that have.
    live: bool | None = None
    gids: tuple[str, ...] = ()
    # None: of any tenant; (): of none.
    tenants: tuple[str, ...] | None = None


class ListPosition(Struct, frozen=True, kw_only=True):
    """The last transaction of a page; the next page starts behind it."""

    created_at_us: int
    gid: str


class Log(Protocol):
    """The durable transaction log, as one coordinator (the `owner`) sees it: one cell or several.

    A cell holds the transactions whose gids it is for, and can be unavailable alone. A caller that writes, or
    works through what is in the log, does that cell by cell (`LogCell`).

    The errors are those of `LogCell`. A call that concerns several cells fails if one of them does.
    """

    @property
    def cells(self) -> "Sequence[LogCell]":
        """The cells. A log of one cell is that cell."""
        ...

    def cell_of(self, gid: str) -> int:
        """Return the position, in `cells`, of the one that holds this transaction."""
        ...

    def place_of(self, cell: int) -> object:
        """Return the place of a cell, by its position. Cells at one place can be written in one commit."""
        ...

    async def transaction_begin_together(
        self, by_cell: Mapping[int, Sequence[Transaction]]
    ) -> dict[int, list[Record | None]]:
        """Insert new transactions of cells at one place in one commit. See `LogCell.transaction_begin`.

        If it fails because of one cell, it fails for all of them. Each can then be written alone.
        """
        ...

    async def transaction_save_together(
        self, by_cell: Mapping[int, Sequence[Transaction]]
    ) -> dict[int, list[bool | None]]:
        """Write changed transactions in the same way. See `LogCell.transaction_save`."""
        ...

    async def transaction_get(self, gids: Sequence[str]) -> dict[str, Record]:
        """See `LogCell`."""
        ...

    async def transaction_list(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """See `LogCell`. Of several cells a page may be shorter than `limit`."""
        ...

    async def transaction_search(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """Return the same for operators, whose slow searches delay no list of an initiator."""
        ...

    async def transaction_take(self, gid: str, *, version: int) -> Record | None:
        """See `LogCell`."""
        ...

    async def transaction_quarantine(self, gid: str, *, version: int) -> bool:
        """See `LogCell`."""
        ...

    async def transaction_release(self) -> int:
        """See `LogCell`. Where it can be done it is done, before the first error is raised."""
        ...

    async def coordinator_leave(self) -> None:
        """See `LogCell`. Where it can be done it is done, before the first error is raised."""
        ...


class LogCell(Protocol):
    """A cell of the transaction log, as one coordinator (the `owner`) sees it.

    Every method raises `core.errors.LogUnavailable` when the log cannot be
    reached or the outcome of a write is unknown. Writes may be repeated after
    that: a write that took effect already is recognised by re-reading and
    reported as done. Every method may raise `core.errors.LogRejected`: the log
    works, but not for this call, which had no effect.

    A row that cannot be used does not fail the call: claims hold it and leave it
    out, all others return it as a quarantined record.
    """

    async def transaction_begin(self, begun: Sequence[Transaction]) -> list[Record | None]:
        """Insert new transactions, owned by us, in one commit.

        Returns, in the order of `begun`: None where it is inserted (now or by
        an earlier try of ours); otherwise the other transaction that has this gid.
        """
        ...

    async def transaction_save(self, changed: Sequence[Transaction]) -> list[bool | None]:
        """Write changed transactions in one commit.

        Each is written only where the row still is ours and still has
        `tx.version`; the row's version rises by one. A parked one (`next_attempt_at`)
        and an ended one lose their owner. Returns, in order, whether it is written
        (now or by an earlier try of ours). False means that another owner has it, None
        that there is no such row.
        """
        ...

    async def transaction_get(self, gids: Sequence[str]) -> dict[str, Record]:
        """Read transactions by gid; unknown ones are missing from the answer."""
        ...

    async def transaction_list(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """Return a page of transactions, newest first, and the position of the next one, if there is one.

        Raises:
            SearchTooLong
        """
        ...

    async def transaction_search(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """Return the same for operators, whose slow searches delay no list of an initiator."""
        ...

    async def transaction_take(self, gid: str, *, version: int) -> Record | None:
        """Make us the owner of a live transaction if its version still is this one."""
        ...

    async def transaction_claim_due(self, limits: Mapping[str, int]) -> list[Record]:
        """Take parked transactions that are due, at most `limits[participant]` of those
        that wait for each participant. The key "" stands for those that wait for none.
        """
        ...

    async def transaction_quarantine(self, gid: str, *, version: int) -> bool:
        """Hold a live transaction of this version, of any owner. Return whether that was done.

        It has no owner then and is never due, until an operator releases it.
        """
        ...

    async def transaction_waiting_on(self) -> list[str]:
        """Return the participants that parked transactions wait for, by name."""
        ...

    async def transaction_adopt(self, limit: int) -> list[Record]:
        """Take at most `limit` live transactions of coordinators whose lease has expired."""
        ...

    async def transaction_release(self) -> int:
        """Release everything we own, so that others may claim it at once. Return how many."""
        ...

    async def transaction_purge(self, *, ended_before_s: float, limit: int) -> int:
        """Delete at most `limit` transactions that ended more than `ended_before_s` seconds ago."""
        ...

    async def payloads_erase(self, *, ended_before_s: float, limit: int) -> int:
        """Erase payloads and results of transactions that ended more than `ended_before_s` seconds ago.

        Return how many were read, at most `limit`: if fewer, all others have been.
        """
        ...

    async def coordinator_heartbeat(self, *, lease_s: float) -> float:
        """Renew our lease. Return the log's time (seconds since the Unix epoch)."""
        ...

    async def coordinator_register_unknown(self, *, lease_s: float) -> int:
        """Give each owner of transactions that the log has no lease of a new one. Return how many.

        An owner that lives renews it. The transactions of all others can be adopted after it.
        """
        ...

    async def coordinator_leave(self) -> None:
        """End our lease at once."""
        ...
