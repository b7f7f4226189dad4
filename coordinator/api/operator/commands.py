"""Operators' commands on transactions: read, decided by the core, written with their audit record."""

from collections.abc import Sequence
from typing import Any

from coordinator.api.operator.approvals import Approvals
from coordinator.api.operator.requests import OperatorContext
from coordinator.api.operator.rights import check_visible
from coordinator.core.audit import AuditRecord
from coordinator.core.errors import VersionChanged
from coordinator.core.events import (
    OperatorCancel,
    OperatorCommand,
    OperatorHold,
    OperatorRelease,
    OperatorResolve,
    OperatorRetry,
)
from coordinator.core.machine import step
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Spans
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log, Record
from coordinator.ports.operator_log import OperatorLog

_NAMES: dict[type[OperatorCommand], str] = {
    OperatorHold: "transaction.hold",
    OperatorRelease: "transaction.release",
    OperatorRetry: "transaction.retry",
    OperatorCancel: "transaction.cancel",
    OperatorResolve: "branch.resolve",
}


class AdminCommands:
    """Execute commands, no matter which coordinator drives the transactions."""

    def __init__(
        self,
        engine: Engine,
        log: OperatorLog,
        approvals: Approvals,
        *,
        transactions: Log,
        clock: Clock,
        spans: Spans,
    ) -> None:
        self._engine = engine
        self._approvals = approvals
        self._log = log
        self._transactions = transactions
        self._clock = clock
        self._spans = spans

    async def execute_by_gid(
        self, gid: str, operator_context: OperatorContext, command: OperatorCommand
    ) -> tuple[Record, AuditRecord]:
        """Execute a command. Return the record that the log holds afterwards.

        Raises:
            VersionChanged: `operator_context.version` is not the transaction's.
            ApprovalRequired: it waits for a second person.
            Refused: the transaction does not allow it.
        """
        record = await self._engine.get(gid)
        check_visible(record.tx)
        record = record.usable()
        if record.tx.version != operator_context.version:
            raise version_changed(record)
        approves = await self._approves(record, operator_context, command)
        try:
            audit_record = await self.execute(record, operator_context, command, approves=approves)
        except VersionChanged:
            raise version_changed(await self._engine.get(gid)) from None
        return await self._engine.get(gid), audit_record

    async def _approves(
        self, record: Record, operator_context: OperatorContext, command: OperatorCommand
    ) -> Sequence[int]:
        """Return the requests of other persons that this command uses up."""
        if not isinstance(command, OperatorResolve):
            return ()
        # What the transaction does not allow is refused, and not recorded as a request.
        step(record.tx, command, self._clock.now())
        arguments = {
            "branch_id": command.branch_id,
            "outcome": command.outcome.name,
            "state": record.tx.state.name,
        }
        return await self._approvals.used(
            _NAMES[OperatorResolve],
            f"transaction/{record.tx.gid}",
            arguments,
            operator_context,
            tenant=record.tx.tenant,
        )

    async def execute(
        self,
        record: Record,
        operator_context: OperatorContext,
        command: OperatorCommand,
        *,
        bulk: str = "",
        approves: Sequence[int] = (),
    ) -> AuditRecord:
        """Execute a command on a transaction as just read.

        `bulk`: the filter that found it. `approves`: the requests of it that are used up.
        """
        now = self._clock.now()
        tx, _ = step(record.usable().tx, command, now)
        entry = operator_context.entry(
            _NAMES[type(command)], f"transaction/{tx.gid}", _detail(record, command, bulk, approves)
        )
        audit_record = await self._log.transaction_command(tx, entry)
        if tx.trace is not None and tx.state is not record.tx.state:
            began_at = record.decided_at or record.created_at
            self._spans.phase_ended(tx, began_at, self._clock.now())
        # The owner notices at its next write. There is no need to wait for that.
        self._engine.evict_stale(await self._transactions.transaction_get((tx.gid,)))
        self._engine.schedule_due(tx.gid, now)
        return audit_record


def _detail(record: Record, command: OperatorCommand, bulk: str, approves: Sequence[int]) -> dict[str, Any]:
    detail: dict[str, Any] = {"state": record.tx.state.name, "version": record.tx.version}
    if isinstance(command, OperatorResolve):
        detail |= {"branch_id": command.branch_id, "outcome": command.outcome.name}
    if bulk:
        detail["bulk_filter"] = bulk
    if approves:
        detail["approves"] = list(approves)
    return detail


def version_changed(record: Record) -> VersionChanged:
    """Return the refusal of a command that was given for an earlier version."""
    tx = record.tx
    return VersionChanged(
        f"transaction {tx.gid!r} has changed since you saw it: its version is now {tx.version}, "
        f"{tx.state.name}; check it again",
        metadata={"gid": tx.gid, "version": str(tx.version), "state": tx.state.name},
    )
