"""An operator's orders to transactions: read, decided by the core, written with their audit record."""

from typing import Any

import msgspec

from coordinator.core.audit import AuditEntry, AuditRecord
from coordinator.core.errors import VersionChanged
from coordinator.core.events import (
    BranchResolved,
    CancelOrdered,
    HoldOrdered,
    Order,
    ReleaseOrdered,
    RetryOrdered,
)
from coordinator.core.machine import step
from coordinator.engine.engine import Engine
from coordinator.ports import OperatorLog, Record
from coordinator.rpc.admin_requests import Act

_NAMES: dict[type[Order], str] = {
    HoldOrdered: "transaction.hold",
    ReleaseOrdered: "transaction.release",
    RetryOrdered: "transaction.retry",
    CancelOrdered: "transaction.cancel",
    BranchResolved: "branch.resolve",
}


class Orders:
    """Carries orders out, whoever drives the transactions."""

    def __init__(self, engine: Engine, log: OperatorLog) -> None:
        self._engine = engine
        self._log = log

    async def give(self, gid: str, act: Act, order: Order) -> tuple[Record, AuditRecord]:
        """Carries out an order; returns what the log holds then.

        Raises:
            VersionChanged: `act.version` is not the transaction's.
            Refused: the transaction does not allow it.
        """
        record = await self._engine.get(gid)
        if record.tx.version != act.version:
            raise version_changed(record)
        try:
            audit_record = await self.give_to(record, act, order)
        except VersionChanged:
            raise version_changed(await self._engine.get(gid)) from None
        return await self._engine.get(gid), audit_record

    async def give_to(self, record: Record, act: Act, order: Order, *, bulk: str = "") -> AuditRecord:
        """The same for a transaction as just read. `bulk`: the filter that found it."""
        now = self._engine.clock.now()
        tx, _ = step(record.tx, order, now)
        entry = AuditEntry(
            operator=act.operator,
            action=_NAMES[type(order)],
            target=f"transaction/{tx.gid}",
            reason=act.reason,
            detail=_detail(record, order, bulk),
        )
        audit_record = await self._log.transaction_order(tx, entry)
        if tx.trace is not None and tx.state is not record.tx.state:
            began_at = record.decided_at or record.created_at
            self._engine.spans.phase_ended(tx, began_at, self._engine.clock.now())
        # Whoever drives it learns by its next write; we need not wait for that here.
        self._engine.lose_stale(await self._engine.log.transaction_get((tx.gid,)))
        self._engine.expect_due(now)
        return audit_record


def _detail(record: Record, order: Order, bulk: str) -> str:
    said: dict[str, Any] = {"state": record.tx.state.name, "version": record.tx.version}
    if isinstance(order, BranchResolved):
        said |= {"branch_id": order.branch_id, "outcome": order.outcome.name}
    if bulk:
        said["bulk_filter"] = bulk
    return msgspec.json.encode(said).decode()


def version_changed(record: Record) -> VersionChanged:
    """The refusal of an order that was given to an earlier version."""
    tx = record.tx
    return VersionChanged(
        f"transaction {tx.gid!r} has changed since you looked: it is in version {tx.version} now, "
        f"{tx.state.name}; look again",
        metadata={"gid": tx.gid, "version": str(tx.version), "state": tx.state.name},
    )
