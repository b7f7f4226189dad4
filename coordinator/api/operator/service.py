"""AdminService: operators' queries on the log, and their commands, each with an audit record."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from coordinator.api.access import Access
from coordinator.api.errors import Context, refusals_as_statuses
from coordinator.api.initiator import replies
from coordinator.api.initiator.requests import checked_gid, list_position, page_token
from coordinator.api.operator import bulk, reconciliation, replies as admin_replies
from coordinator.api.operator.approvals import Approvals
from coordinator.api.operator.audit_log import log_payloads_read, log_refusal
from coordinator.api.operator.commands import AdminCommands
from coordinator.api.operator.explanation import explain
from coordinator.api.operator.filter import parse
from coordinator.api.operator.requests import (
    audit_sequence,
    audit_token,
    checked_cell,
    checked_operator_context,
    checked_outcome,
    checked_page_size,
    checked_text,
)
from coordinator.api.operator.rights import Rights, check_visible, may_see_payloads, visible
from coordinator.core.errors import (
    CoordinatorDraining,
    CoordinatorGone,
    CoordinatorNotFound,
    LogError,
    Refused,
    UnknownParticipant,
    VersionChanged,
)
from coordinator.core.events import (
    OperatorCancel,
    OperatorCommand,
    OperatorHold,
    OperatorRelease,
    OperatorResolve,
    OperatorRetry,
)
from coordinator.core.model import TransactionState
from coordinator.engine.auditor import Auditor
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Spans
from coordinator.engine.reconciler import Reconciler
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log, Record
from coordinator.ports.operator_log import (
    AuditFilter,
    Backlog,
    CoordinatorRecord,
    OperatorLog,
    ParticipantRecord,
)
from coordinator.security.caller import CALLER
from tcc.admin.v1 import admin_pb2 as pb, admin_pb2_grpc
from tcc.common.v1 import common_pb2 as common

# How many records of operators' actions on one transaction its history shows.
_OPERATOR_ACTIONS_SHOWN_MAX = 1_000


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """The API for operators. `owner`: the id of the coordinator that responds."""

    def __init__(
        self,
        engine: Engine,
        log: OperatorLog,
        reconciler: Reconciler,
        auditors: Sequence[Auditor],
        *,
        transactions: Log,
        clock: Clock,
        spans: Spans,
        owner: str,
        call_max_s: float,
        payload_bytes_max: int,
        access: Access | None = None,
    ) -> None:
        """`transactions`: the log as the engine uses it; `log`: what only operators need of it."""
        self._engine = engine
        self._log = log
        self._transactions = transactions
        self._clock = clock
        self._reconciler = reconciler
        self._auditors = auditors
        self._owner = owner
        self._rights = Rights(access)
        self._approvals = Approvals(log, clock, self._rights)
        self._commands = AdminCommands(
            engine, log, self._approvals, transactions=transactions, clock=clock, spans=spans
        )
        self.call_max_s = call_max_s
        self._payload_bytes_max = payload_bytes_max

    def refused(self, method: str, request: object, context: Context, error: Refused, /) -> Refused:
        """Log the refusal. Operators get what the database said, too."""
        log_refusal(method, request, context, error)
        return (
            type(error)(error.explained, retry_after_s=error.retry_after_s)
            if isinstance(error, LogError)
            else error
        )

    @refusals_as_statuses
    async def WhoAmI(self, _request: pb.WhoAmIRequest, _context: Context) -> pb.WhoAmIResponse:
        return admin_replies.who_am_i(CALLER.get())

    # --- queries on transactions ------------------------------------------

    @refusals_as_statuses
    async def SearchTransactions(
        self, request: pb.SearchTransactionsRequest, _context: Context
    ) -> pb.SearchTransactionsResponse:
        records, position = await self._transactions.transaction_search(
            visible(parse(request.filter, self._clock.now())),
            after=list_position(request.page_token),
            limit=checked_page_size(request.page_size),
        )
        return pb.SearchTransactionsResponse(
            transactions=[replies.transaction(record, with_payloads=False) for record in records],
            next_page_token=page_token(position) if position else "",
        )

    @refusals_as_statuses
    async def InspectTransaction(
        self, request: pb.InspectTransactionRequest, context: Context
    ) -> pb.InspectTransactionResponse:
        gid = checked_gid(request.gid)
        record = await self._engine.get(gid)
        check_visible(record.tx)
        adoption = await self._log.transaction_adoption(gid)
        actions = await self._log.audit_list(
            AuditFilter(target=f"transaction/{gid}"), before=None, limit=_OPERATOR_ACTIONS_SHOWN_MAX
        )
        names = {one.id: one.name for one in await self._log.coordinator_list()}
        if may_see_payloads():
            log_payloads_read(gid, context)
        return pb.InspectTransactionResponse(
            transaction=replies.transaction(record, with_payloads=may_see_payloads()),
            history=admin_replies.history(record, adoption, actions),
            owner_name=names.get(record.owner or "", ""),
        )

    @refusals_as_statuses
    async def ExplainTransaction(
        self, request: pb.ExplainTransactionRequest, _context: Context
    ) -> pb.ExplainTransactionResponse:
        record = await self._engine.get(checked_gid(request.gid))
        check_visible(record.tx)
        live = self._engine.live.get(record.tx.gid)
        return explain(
            record,
            live.tx if live is not None and record.owner == self._owner else None,
            await self._log.coordinator_list(),
            await self._log.participant_list(),
            self._clock.now(),
        )

    # --- commands on transactions -----------------------------------------

    @refusals_as_statuses
    async def RetryTransaction(
        self, request: pb.RetryTransactionRequest, _context: Context
    ) -> pb.RetryTransactionResponse:
        record, audited = await self._execute(request.gid, request.operator_context, OperatorRetry())
        return pb.RetryTransactionResponse(transaction=_shown(record), audit_record=audited)

    @refusals_as_statuses
    async def HoldTransaction(
        self, request: pb.HoldTransactionRequest, _context: Context
    ) -> pb.HoldTransactionResponse:
        record, audited = await self._execute(request.gid, request.operator_context, OperatorHold())
        return pb.HoldTransactionResponse(transaction=_shown(record), audit_record=audited)

    @refusals_as_statuses
    async def ReleaseTransaction(
        self, request: pb.ReleaseTransactionRequest, _context: Context
    ) -> pb.ReleaseTransactionResponse:
        record, audited = await self._execute(request.gid, request.operator_context, OperatorRelease())
        return pb.ReleaseTransactionResponse(transaction=_shown(record), audit_record=audited)

    @refusals_as_statuses
    async def CancelTransaction(
        self, request: pb.CancelTransactionRequest, _context: Context
    ) -> pb.CancelTransactionResponse:
        command = OperatorCancel(request.operator_context.reason.strip())
        record, audited = await self._execute(request.gid, request.operator_context, command)
        return pb.CancelTransactionResponse(transaction=_shown(record), audit_record=audited)

    @refusals_as_statuses
    async def ResolveBranch(
        self, request: pb.ResolveBranchRequest, _context: Context
    ) -> pb.ResolveBranchResponse:
        command = OperatorResolve(
            request.branch_id, checked_outcome(request.outcome), request.operator_context.reason.strip()
        )
        record, audited = await self._execute(request.gid, request.operator_context, command)
        return pb.ResolveBranchResponse(transaction=_shown(record), audit_record=audited)

    async def _execute(
        self, gid: str, operator_context: pb.OperatorContext, command: OperatorCommand
    ) -> tuple[Record, pb.AuditRecord]:
        record, audited = await self._commands.execute_by_gid(
            checked_gid(gid), checked_operator_context(operator_context, needs_version=True), command
        )
        return record, admin_replies.audit_record(audited)

    @refusals_as_statuses
    async def RunBulkAction(self, request: pb.RunBulkActionRequest, context: Context) -> None:
        async for response in bulk.run(
            self._transactions,
            self._clock,
            self._commands,
            request,
            checked_operator_context(request.operator_context),
            key=await self._log.confirmation_key(),
            rights=self._rights,
        ):
            await context.write(response)

    # --- participants -----------------------------------------------------

    @refusals_as_statuses
    async def ListParticipants(
        self, _request: pb.ListParticipantsRequest, _context: Context
    ) -> pb.ListParticipantsResponse:
        backlog = await self._log.backlog()
        participants = admin_replies.participants(
            await self._log.participant_list(), await self._log.coordinator_list(), backlog
        )
        return pb.ListParticipantsResponse(participants=participants)

    @refusals_as_statuses
    async def PauseParticipant(
        self, request: pb.PauseParticipantRequest, _context: Context
    ) -> pb.PauseParticipantResponse:
        status, audited = await self._changed(
            request.participant, request.operator_context, "pause", paused=True
        )
        return pb.PauseParticipantResponse(participant=status, audit_record=audited)

    @refusals_as_statuses
    async def ResumeParticipant(
        self, request: pb.ResumeParticipantRequest, _context: Context
    ) -> pb.ResumeParticipantResponse:
        status, audited = await self._changed(
            request.participant, request.operator_context, "resume", paused=False
        )
        return pb.ResumeParticipantResponse(participant=status, audit_record=audited)

    @refusals_as_statuses
    async def ResetBreaker(
        self, request: pb.ResetBreakerRequest, _context: Context
    ) -> pb.ResetBreakerResponse:
        status, audited = await self._changed(request.participant, request.operator_context, "reset_breaker")
        return pb.ResetBreakerResponse(participant=status, audit_record=audited)

    async def _changed(
        self, name: str, asked: pb.OperatorContext, action: str, *, paused: bool | None = None
    ) -> tuple[pb.ParticipantStatus, pb.AuditRecord]:
        """Return the participant as an operator wants it. `paused` None: its breaker is to be closed."""
        operator_context = checked_operator_context(asked)
        checked_text("participant", name)
        coordinators = await self._log.coordinator_list()
        known = await self._participant(name, coordinators)
        if known.version != operator_context.version:
            raise _participant_changed(known)
        wanted = replace(
            known,
            paused=known.paused if paused is None else paused,
            breaker_resets=known.breaker_resets + (paused is None),
            operator=operator_context.operator,
            reason=operator_context.reason,
        )
        entry = operator_context.entry(
            f"participant.{action}", f"participant/{name}", {"version": known.version}
        )
        try:
            audited = await self._log.participant_change(wanted, entry)
        except VersionChanged:
            raise _participant_changed(await self._participant(name, coordinators)) from None
        changed = (await self._log.participant_list())[name]
        return (
            admin_replies.participant(changed, coordinators, await self._log.backlog()),
            admin_replies.audit_record(audited),
        )

    async def _participant(self, name: str, coordinators: list[CoordinatorRecord]) -> ParticipantRecord:
        known = (await self._log.participant_list()).get(name)
        configured = name in self._engine.dispatchers or any(
            name in one.report.participants for one in coordinators
        )
        if known is None and not configured:
            raise UnknownParticipant(
                f"no coordinator is configured with participant {name!r}", metadata={"participant": name}
            )
        return known or ParticipantRecord(name=name)

    @refusals_as_statuses
    async def Reconcile(self, request: pb.ReconcileRequest, context: Context) -> None:
        async for response in reconciliation.compare(self._reconciler, request):
            await context.write(response)

    @refusals_as_statuses
    async def RepairBranch(
        self, request: pb.RepairBranchRequest, _context: Context
    ) -> pb.RepairBranchResponse:
        return await reconciliation.repair(
            self._reconciler,
            self._log,
            self._approvals,
            request,
            checked_operator_context(request.operator_context),
            payload_bytes_max=self._payload_bytes_max,
        )

    # --- coordinators -----------------------------------------------------

    @refusals_as_statuses
    async def ListCoordinators(
        self, _request: pb.ListCoordinatorsRequest, _context: Context
    ) -> pb.ListCoordinatorsResponse:
        return pb.ListCoordinatorsResponse(coordinators=await self._coordinators(), responder_id=self._owner)

    async def _coordinators(self) -> list[pb.Coordinator]:
        owned = await self._log.coordinator_owned()
        return [admin_replies.coordinator(one, owned) for one in await self._log.coordinator_list()]

    @refusals_as_statuses
    async def DrainCoordinator(
        self, request: pb.DrainCoordinatorRequest, _context: Context
    ) -> pb.DrainCoordinatorResponse:
        operator_context, wanted = checked_operator_context(request.operator_context), request.coordinator_id
        self._check_can_drain(wanted, await self._log.coordinator_list())
        entry = operator_context.entry("coordinator.drain", f"coordinator/{wanted}")
        try:
            audited = await self._log.coordinator_request_drain(wanted, entry)
        except VersionChanged:
            self._check_can_drain(wanted, await self._log.coordinator_list())
            raise
        (coordinator,) = [one for one in await self._coordinators() if one.id == wanted]
        return pb.DrainCoordinatorResponse(
            coordinator=coordinator, audit_record=admin_replies.audit_record(audited)
        )

    def _check_can_drain(self, wanted: str, coordinators: list[CoordinatorRecord]) -> None:
        found = next((one for one in coordinators if one.id == wanted), None)
        if found is None:
            raise CoordinatorNotFound(f"there is no coordinator {wanted!r}")
        if not found.alive:
            raise CoordinatorGone(f"coordinator {found.name} has died; others adopt its transactions")
        if found.drain_requested_at is not None:
            raise CoordinatorDraining(f"coordinator {found.name} is already draining")

    # --- the audit chain ----------------------------------------------------

    @refusals_as_statuses
    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, _context: Context
    ) -> pb.ListAuditRecordsResponse:
        chosen = AuditFilter(
            operator=checked_text("operator", request.operator),
            target=checked_text("target", request.target),
            action=checked_text("action", request.action),
            cell=checked_cell(request.cell, len(self._auditors)) if request.HasField("cell") else None,
        )
        limit = checked_page_size(request.page_size)
        records = await self._log.audit_list(
            chosen, before=audit_sequence(request.page_token), limit=limit + 1
        )
        page, more = records[:limit], len(records) > limit
        return pb.ListAuditRecordsResponse(
            records=[admin_replies.audit_record(record) for record in page],
            next_page_token=audit_token(self._log.audit_list_position(page[-1])) if more else "",
        )

    @refusals_as_statuses
    async def VerifyAuditChain(
        self, request: pb.VerifyAuditChainRequest, _context: Context
    ) -> pb.VerifyAuditChainResponse:
        cells = len(self._auditors)
        check = await self._auditors[checked_cell(request.cell, cells)].check()
        return admin_replies.chain_check(check, cells)

    # --- figures ------------------------------------------------------------

    @refusals_as_statuses
    async def GetStats(self, _request: pb.GetStatsRequest, _context: Context) -> pb.GetStatsResponse:
        backlog = await self._log.backlog()
        coordinators = await self._log.coordinator_list()
        owned = await self._log.coordinator_owned()
        reply = pb.GetStatsResponse(
            at=replies.timestamp(backlog.at),
            trying=backlog.by_state.get(TransactionState.TRYING, 0),
            confirming=backlog.by_state.get(TransactionState.CONFIRMING, 0),
            cancelling=backlog.by_state.get(TransactionState.CANCELLING, 0),
            parked=backlog.parked,
            stuck=backlog.stuck,
            held=backlog.held,
            oldest_unfinished_gid=backlog.oldest_gid,
            participants=admin_replies.participants(
                await self._log.participant_list(), coordinators, backlog
            ),
            coordinators=[admin_replies.coordinator(one, owned) for one in coordinators],
            responder_id=self._owner,
            count_max=backlog.count_max,
            capped=backlog.capped,
        )
        for name, rate in _rates(coordinators).items():
            setattr(reply, name, rate)
        _set_oldest(reply, backlog)
        return reply


def _shown(record: Record) -> common.Transaction:
    return replies.transaction(record, with_payloads=False)


def _participant_changed(known: ParticipantRecord) -> VersionChanged:
    return VersionChanged(
        f"participant {known.name!r} has changed since you saw it: its version is now {known.version}",
        metadata={"participant": known.name, "version": str(known.version)},
    )


def _rates(coordinators: list[CoordinatorRecord]) -> Mapping[str, float]:
    alive = [one.report for one in coordinators if one.alive]
    names = ("begun_per_s", "confirmed_per_s", "cancelled_per_s", "calls_per_s", "failed_calls_per_s")
    return {name: sum(getattr(report, name) for report in alive) for name in names}


def _set_oldest(reply: pb.GetStatsResponse, backlog: Backlog) -> None:
    if backlog.oldest_created_at is not None:
        age_s = max(0.0, backlog.at - backlog.oldest_created_at)
        reply.oldest_unfinished_age.FromMicroseconds(round(age_s * 1e6))
