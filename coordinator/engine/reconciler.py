"""Compares the barrier rows of participants with the log, and makes the calls that repair them.

Rows are read in pages, so that memory is bounded. Each finding is checked twice: the
participant's row is read, then the log, then the row again. `coordinator.core.reconciliation`
explains why that is enough. Nothing is called while an operator pauses the participant, or
while its breaker is open.

One race remains: an initiator begins the gid of an orphan again, long after its expiry, at
the moment in which an operator cancels that orphan. Its Try finds the old reservation, and
its Confirm may find it cancelled. The transaction is then reported as stuck.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from coordinator.core.errors import (
    FindingGone,
    ParticipantPaused,
    ParticipantUnreachable,
    RepairNotAllowed,
    UnknownParticipant,
)
from coordinator.core.machine import branch_call
from coordinator.core.model import BranchCall, BranchSpec, CallResult, Operation
from coordinator.core.reconciliation import BarrierRow, BarrierState, Finding, FindingKind, compare_row
from coordinator.engine.engine import Engine
from coordinator.ports.operator_log import OperatorLog
from coordinator.ports.participants import BarrierQuery, BarrierReader, CallResults
from tcc.payload import UNKNOWN

# In place of a transaction that the log does not hold.
_ABSENT = object()
_ENDED = (BarrierState.CONFIRMED, BarrierState.CANCELLED)


class ReconcileSettings(Struct, frozen=True, kw_only=True):
    """How old rows must be to be compared, and how often they are compared."""

    # 0: only on demand.
    every_s: float = 3_600.0
    min_age_s: float = 300.0
    # Rows that have ended are compared, too, for this long after their expiry; 0: never.
    ended_within_s: float = 0.0
    page_size: int = 500
    # How long the log keeps what has ended.
    retention_s: float = 7 * 24 * 3600.0


class Compared(Struct, frozen=True, kw_only=True):
    """A page of rows that were compared with the log, and those that do not agree."""

    rows: int
    findings: list[Finding]


class Reconciler:
    """Compares, and repairs on command."""

    def __init__(
        self, engine: Engine, log: OperatorLog, barrier_reader: BarrierReader, settings: ReconcileSettings
    ) -> None:
        self.settings = settings
        self._engine = engine
        self._log = log
        self._barrier_reader = barrier_reader

    @property
    def participants(self) -> list[str]:
        """The participants that this coordinator can compare, by name."""
        return sorted(self._engine.dispatchers)

    async def compare(
        self, participant: str, *, min_age_s: float, ended_within_s: float
    ) -> AsyncIterator[Compared]:
        """Yield the pages of a participant: its open rows, then those that ended, if they are asked for.

        Raises:
            ReconciliationUnsupported, ParticipantPaused, ParticipantUnreachable, UnknownParticipant,
            LogUnavailable
        """
        page_size = self.settings.page_size
        queries = [BarrierQuery(min_age_s=min_age_s, page_size=page_size)]
        if ended_within_s > 0:
            queries.append(
                BarrierQuery(
                    states=_ENDED, min_age_s=min_age_s, max_age_s=ended_within_s, page_size=page_size
                )
            )
        for asked in queries:
            token = ""
            while True:
                self._check_may_call(participant)
                page = await self._barrier_reader.list_branches(participant, asked, token)
                yield Compared(rows=len(page.rows), findings=await self._findings(participant, page.rows))
                token = page.next_page_token
                if not token:
                    break

    async def find(self, participant: str, gid: str, branch_id: str) -> Finding:
        """Return what is wrong with this row.

        Raises:
            FindingGone: the row agrees with the log by now.
            ReconciliationUnsupported, ParticipantPaused, ParticipantUnreachable, UnknownParticipant,
            LogUnavailable
        """
        self._check_may_call(participant)
        rows = await self._barrier_reader.find_branches(participant, [(gid, branch_id)])
        for finding in await self._findings(participant, rows):
            return finding
        raise FindingGone(
            f"the row of branch {branch_id!r} of transaction {gid!r} at participant {participant} "
            "agrees with the log; there is nothing to repair"
        )

    def checked_repair(self, finding: Finding, wanted: Operation | None) -> Operation:
        """Return the operation that repairs a finding; `wanted` None: the proposed one.

        Raises:
            RepairNotAllowed
        """
        operation = wanted or finding.repair
        if operation is None and finding.repairs:
            raise RepairNotAllowed(f"no repair is proposed: choose the operation; {finding.explanation}")
        if operation is None or operation not in finding.repairs:
            raise RepairNotAllowed(f"this operation does not repair it: {finding.explanation}")
        return operation

    async def has_payload(self, finding: Finding) -> bool:
        """Return whether the log has the payload of a finding's branch. Later it is erased.

        Raises:
            LogUnavailable
        """
        return (await self._call(finding, Operation.CANCEL)).spec.content_type != UNKNOWN

    async def repair(
        self, finding: Finding, operation: Operation, *, payload: bytes, content_type: str
    ) -> CallResult:
        """Call the operation on a finding's row; return the participant's result.

        `payload`: if the log has none, as the operator supplies it; it must hold the bytes that its
        Try had, or the participant answers BRANCH_CONFLICT.
        """
        call = await self._call(finding, operation)
        if call.spec.content_type == UNKNOWN and (payload or content_type):
            call = replace(call, spec=replace(call.spec, payload=payload, content_type=content_type))
        answered: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()

        def on_results(answers: CallResults) -> None:
            if not answered.done():  # the caller may have left
                ((_, answer),) = answers
                answered.set_result(answer)

        self._barrier_reader.execute(finding.participant, [call], on_results)
        return await answered

    async def _call(self, finding: Finding, operation: Operation) -> BranchCall:
        row = finding.row
        if finding.kind is not FindingKind.ORPHAN:
            tx = (await self._engine.get(row.gid)).usable().tx
            for index, branch in enumerate(tx.branches):
                if branch.spec.branch_id == row.branch_id:
                    call = branch_call(tx, index, operation)
                    return replace(call, attempt=1, trace=None, failed_span_id="")
        spec = BranchSpec(
            branch_id=row.branch_id,
            participant=finding.participant,
            action=row.action,
            content_type=UNKNOWN,
            kind=row.kind,
        )
        return BranchCall(gid=row.gid, index=0, operation=operation, spec=spec, expires_at=0.0, attempt=1)

    async def _findings(self, participant: str, rows: Sequence[BarrierRow]) -> list[Finding]:
        """Return the findings among these rows that are still there when the rows are read again."""
        if not rows:
            return []
        known = await self._log.transaction_brief(list({row.gid for row in rows}))
        # Nothing is known of what is quarantined: neither that it agrees, nor that it does not.
        rows = [row for row in rows if known.get(row.gid, _ABSENT) is not None]
        retention_s = self.settings.retention_s
        found = [compare_row(participant, row, known.get(row.gid), retention_s=retention_s) for row in rows]
        findings = [finding for finding in found if finding is not None]
        if not findings:
            return []
        again = await self._barrier_reader.find_branches(
            participant, [finding.row.key for finding in findings]
        )
        states = {row.key: row.state for row in again}
        return [finding for finding in findings if states.get(finding.row.key) is finding.row.state]

    def _check_may_call(self, participant: str) -> None:
        dispatcher = self._engine.dispatchers.get(participant)
        if dispatcher is None:
            raise UnknownParticipant(
                f"this coordinator is not configured with participant {participant!r}",
                metadata={"participant": participant},
            )
        if dispatcher.paused:
            raise ParticipantPaused(f"an operator has paused participant {participant}; nothing is called")
        if not dispatcher.breaker.closed:
            raise ParticipantUnreachable(f"participant {participant} does not answer: its breaker is open")
