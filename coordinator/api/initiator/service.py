"""TransactionService: turn initiators' requests into events for the engine, and wait for the results."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from coordinator.api.calls import CallLimit, UnreadBytes, responses_unread
from coordinator.api.errors import Context, refusals_as_statuses, to_error
from coordinator.api.initiator import replies
from coordinator.api.initiator.batch import ERROR_BYTES, Batch, Replies
from coordinator.api.initiator.requests import (
    REASON_CHARACTERS_MAX,
    RequestLimits,
    branch_spec,
    check_back_spec,
    check_distinct,
    checked_gid,
    list_filter,
    list_position,
    message_specs,
    milestone_of,
    new_interactive,
    new_transaction,
    page_size,
    page_token,
    transaction_request,
)
from coordinator.api.initiator.tenancy import (
    calling_client,
    check_calls,
    check_gid,
    limits_of,
    new_gid,
    tenant_of,
)
from coordinator.api.initiator.trace_contexts import NewTrace, trace_of
from coordinator.api.slow_readers import SlowReaders
from coordinator.core.errors import (
    AlreadyDecided,
    DecisionConflict,
    InvalidRequest,
    KeepsFailing,
    OwnerChanged,
    Refused,
    UnknownParticipant,
)
from coordinator.core.machine import (
    CANCEL_MESSAGE_CHARACTERS_MAX,
    bounded_text,
    failing_branch,
    status_metadata,
)
from coordinator.core.model import DECISIONS, Branch, BranchSpec, Operation, Transaction, TryState
from coordinator.engine.engine import Engine
from coordinator.engine.waiting import Milestone, Waiter
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log
from coordinator.security.caller import Client
from coordinator.security.rates import Rates
from tcc._internal.failpoint import failpoint
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc

# How often a step is retried while coordinators take the transaction over from each other.
COMMAND_REPEATS_MAX = 4
# A caller learns that a branch keeps failing before its deadline: by this share of its time, and
# by at most this much. It is less than for an expiry, which explains more.
REPLY_MARGIN = 0.05
REPLY_MARGIN_MAX_S = 0.1
# The error is sent twice in headers, whose size is limited.
LAST_ERROR_BYTES_MAX = 1_000


class TransactionService(transaction_pb2_grpc.TransactionServiceServicer):
    """The API for initiators."""

    def __init__(
        self,
        engine: Engine,
        limits: RequestLimits,
        *,
        log: Log,
        clock: Clock,
        completions: CallLimit,
        unread: UnreadBytes,
        slow_readers: SlowReaders,
        response_max_s: float,
        new_trace: NewTrace | None = None,
        rates: Rates | None = None,
    ) -> None:
        """`new_trace`: set if this coordinator makes spans.

        `completions`: the Confirms and Cancels that wait for the completion. `response_max_s`: how
        long a client may take to read a response of a batch.
        """
        self._engine = engine
        self._log = log
        self._clock = clock
        self._limits = limits
        self._new_trace = new_trace
        self._rates = rates
        self._completions = completions
        self._unread = unread
        self._slow_readers = slow_readers
        self._response_max_s = response_max_s
        self.call_max_s = limits.call_max_s

    def refused(self, _method: str, _request: object, _context: Context, error: Refused, /) -> Refused:
        """Log nothing: initiators are refused often, and get the reason."""
        return error

    # --- whole transactions -----------------------------------------------

    @refusals_as_statuses
    async def ExecuteTransaction(
        self, request: pb.ExecuteTransactionRequest, context: Context
    ) -> pb.ExecuteTransactionResponse:
        milestone = milestone_of(request.wait_for)
        tx = self._new_transaction(request, context.time_remaining(), calling_client(), context)
        return pb.ExecuteTransactionResponse(
            outcome=replies.outcome(await self._begun(tx, milestone, context))
        )

    @refusals_as_statuses
    async def ExecuteTransactions(self, request: Batch, context: Context) -> None:
        collected = Replies(len(request.items), self._unread)
        failpoint("rpc.batch.request")
        begun, unknown = self._begin_batch(request, collected, context.time_remaining())
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self._reply_in_s(context), self._fail_if_branches_fail, begun)
        try:
            if unknown:
                await self._engine.rejoin(unknown)
            while collected.missing:
                response = pb.ExecuteTransactionsResponse(replies=await collected.take())
                failpoint("rpc.batch.reply.before")
                too_slow = loop.call_later(self._response_max_s, collected.close)
                with self._slow_readers.sending(context):
                    await context.write(response)
                too_slow.cancel()
                failpoint("rpc.batch.reply.after")
                if collected.closed:
                    raise responses_unread()
        finally:
            alarm.cancel()
            collected.close()
            collected.release_sent()

    def _begin_batch(
        self, request: Batch, collected: Replies, time_left_s: float | None
    ) -> tuple[list[tuple[str, "_Item"]], list[tuple[Transaction, "_Item", Refused]]]:
        """Begin the transactions of a batch. Return their requests, and those of unknown participants."""
        # If the call will be refused anyway, refuse it before more is spent than reading it.
        refusal = self._engine.refusal()
        refused = None if refusal is None else to_error(refusal)
        client = calling_client()
        unknown: list[tuple[Transaction, _Item, Refused]] = []
        begun: list[tuple[str, _Item]] = []
        for index, raw in enumerate(request.items):
            try:
                if client is not None and self._rates is not None and index:  # the call itself counts as one
                    self._rates.take(client)
                item = transaction_request(raw, self._limits)
                if refused is not None and item.gid not in self._engine.live:
                    collected.add(pb.ExecuteTransactionsReply(index=index, error=refused), ERROR_BYTES)
                    continue
                waiter = _Item(milestone_of(item.wait_for), collected, index)
                tx = self._new_transaction(item, time_left_s, client)
                try:
                    self._engine.begin(tx, waiter)
                except UnknownParticipant as error:
                    unknown.append((tx, waiter, error))
                begun.append((tx.gid, waiter))
            except Refused as error:
                collected.add(_refusal(index, error), ERROR_BYTES)
        return begun, unknown

    def _new_transaction(
        self,
        request: pb.ExecuteTransactionRequest,
        time_left_s: float | None,
        client: Client | None,
        call: "Context | None" = None,
    ) -> Transaction:
        # Check this first: whole transactions come by the thousand, and most have no trace.
        traced = self._new_trace is not None or request.traceparent
        tx = new_transaction(
            request,
            gid="" if request.gid else new_gid(client),
            now=self._clock.now(),
            time_left_s=time_left_s,
            limits=limits_of(client, self._limits),
            cancel_in_stage_order=self._engine.cancel_in_stage_order,
            trace=trace_of(request, call, self._new_trace) if traced else None,
            tenant=tenant_of(client) or "",
        )
        if client is not None:
            check_gid(client, tx.gid)
            check_calls(client, (branch.spec for branch in tx.branches))
        return tx

    async def _begun(self, tx: Transaction, milestone: Milestone, context: Context) -> Transaction:
        async def begin(waiter: Waiter) -> None:
            try:
                self._engine.begin(tx, waiter)
            except UnknownParticipant as error:
                await self._engine.rejoin([(tx, waiter, error)])

        return await self._until(tx.gid, milestone, begin, context)

    # --- interactive transactions -----------------------------------------

    @refusals_as_statuses
    async def BeginTransaction(
        self, request: pb.BeginTransactionRequest, context: Context
    ) -> pb.BeginTransactionResponse:
        client = calling_client()
        tx = new_interactive(
            request,
            gid="" if request.gid else new_gid(client),
            now=self._clock.now(),
            limits=limits_of(client, self._limits),
            trace=trace_of(request, context, self._new_trace),
            tenant=tenant_of(client) or "",
        )
        check_gid(client, tx.gid)
        begun = await self._begun(tx, Milestone.ACCEPTED, context)
        return pb.BeginTransactionResponse(gid=begun.gid, expires_at=replies.timestamp(begun.expires_at))

    @refusals_as_statuses
    async def TryBranch(self, request: pb.TryBranchRequest, context: Context) -> pb.TryBranchResponse:
        spec = branch_spec(request.branch, self._limits, self._engine.cancel_in_stage_order, interactive=True)
        tx, branch = await self._add_branch(request.gid, spec, Milestone.BRANCH_TRIED, context)
        if branch.tried is TryState.UNKNOWN:
            raise _too_late(tx)
        return replies.try_branch(branch)

    @refusals_as_statuses
    async def RegisterBranch(
        self, request: pb.RegisterBranchRequest, context: Context
    ) -> pb.RegisterBranchResponse:
        stage_order = self._engine.cancel_in_stage_order
        if request.check_back:
            spec = check_back_spec(request, self._limits, stage_order)
        else:
            spec = branch_spec(
                request.branch, self._limits, stage_order, interactive=True, tried_by_initiator=True
            )
        messages = message_specs(request.messages, self._limits, stage_order)
        if messages and not request.check_back:
            raise InvalidRequest("INVALID_MESSAGES", "messages come with a branch with check_back")
        check_distinct((spec, *messages))
        tx, _ = await self._add_branch(request.gid, spec, Milestone.BRANCH_REGISTERED, context, messages)
        if tx.state.decided:
            raise _too_late(tx)
        return pb.RegisterBranchResponse(expires_at=replies.timestamp(tx.expires_at))

    async def _add_branch(
        self,
        gid: str,
        spec: BranchSpec,
        milestone: Milestone,
        context: Context,
        messages: tuple[BranchSpec, ...] = (),
    ) -> tuple[Transaction, Branch]:
        gid = checked_gid(gid)
        client = calling_client()
        check_calls(client, (spec, *messages))
        tx = await self._commanded(
            gid,
            milestone,
            lambda waiter: self._engine.add_branch(
                gid,
                spec,
                waiter,
                branches_max=self._limits.branches_max,
                transaction_bytes_max=self._limits.transaction_bytes_max,
                messages=messages,
                tenant=tenant_of(client),
            ),
            context,
            branch_id=spec.branch_id,
        )
        branch = next((b for b in tx.branches if b.spec.branch_id == spec.branch_id), None)
        if branch is None:
            raise _too_late(tx)
        return tx, branch

    @refusals_as_statuses
    async def ConfirmTransaction(
        self, request: pb.ConfirmTransactionRequest, context: Context
    ) -> pb.ConfirmTransactionResponse:
        gid, client = checked_gid(request.gid), calling_client()
        messages = message_specs(request.messages, self._limits, self._engine.cancel_in_stage_order)
        check_calls(client, messages)
        tx = await self._commanded(
            gid,
            self._decision_or_completion(request.wait_for),
            lambda waiter: self._engine.confirm(
                gid,
                waiter,
                messages=messages,
                branches_max=self._limits.branches_max,
                transaction_bytes_max=self._limits.transaction_bytes_max,
                tenant=tenant_of(client),
            ),
            context,
        )
        if DECISIONS.get(tx.state) is Operation.CANCEL:
            raise _decided_otherwise(tx)
        return pb.ConfirmTransactionResponse(outcome=replies.outcome(tx))

    @refusals_as_statuses
    async def CancelTransaction(
        self, request: pb.CancelTransactionRequest, context: Context
    ) -> pb.CancelTransactionResponse:
        gid = checked_gid(request.gid)
        if len(request.reason) > REASON_CHARACTERS_MAX or "\0" in request.reason:
            raise InvalidRequest(
                "INVALID_REASON",
                f"reason may have at most {REASON_CHARACTERS_MAX} characters, none of them NUL",
            )
        tenant = tenant_of(calling_client())
        tx = await self._commanded(
            gid,
            self._decision_or_completion(request.wait_for),
            lambda waiter: self._engine.cancel(gid, request.reason, waiter, tenant=tenant),
            context,
        )
        if DECISIONS.get(tx.state) is Operation.CONFIRM:
            raise _decided_otherwise(tx)
        return pb.CancelTransactionResponse(outcome=replies.outcome(tx))

    # --- reading ----------------------------------------------------------

    @refusals_as_statuses
    async def GetTransaction(
        self, request: pb.GetTransactionRequest, _context: Context
    ) -> pb.GetTransactionResponse:
        record = await self._engine.get(checked_gid(request.gid), tenant=tenant_of(calling_client()))
        return pb.GetTransactionResponse(transaction=replies.transaction(record, with_payloads=True))

    @refusals_as_statuses
    async def ListTransactions(
        self, request: pb.ListTransactionsRequest, _context: Context
    ) -> pb.ListTransactionsResponse:
        records, position = await self._log.transaction_list(
            list_filter(request, self._limits, tenant_of(calling_client())),
            after=list_position(request.page_token),
            limit=page_size(request),
        )
        return pb.ListTransactionsResponse(
            transactions=[replies.transaction(record, with_payloads=False) for record in records],
            next_page_token=page_token(position) if position else "",
        )

    @refusals_as_statuses
    async def WaitTransaction(
        self, request: pb.WaitTransactionRequest, context: Context
    ) -> pb.WaitTransactionResponse:
        gid, tenant = checked_gid(request.gid), tenant_of(calling_client())
        tx = await self._until(
            gid,
            milestone_of(request.wait_for),
            lambda waiter: self._engine.wait(gid, waiter, tenant=tenant),
            context,
        )
        return pb.WaitTransactionResponse(outcome=replies.outcome(tx))

    # --- waiting ----------------------------------------------------------

    def _decision_or_completion(self, wait_for: int) -> Milestone:
        """Return the milestone of a request for a decision: at least the decision.

        Raises:
            Overloaded: too many such requests wait for completions.
        """
        milestone = max(milestone_of(wait_for), Milestone.DECIDED)
        if milestone is Milestone.COMPLETED:
            self._completions.admit()
        return milestone

    async def _commanded(
        self,
        gid: str,
        milestone: Milestone,
        ask: Callable[[Waiter], Awaitable[None]],
        context: Context,
        *,
        branch_id: str = "",
    ) -> Transaction:
        """Run `_until` for a step of an interactive transaction.

        Retry if another coordinator owns the transaction by now: an initiator's steps may
        reach different coordinators in turn.
        """
        for _ in range(COMMAND_REPEATS_MAX):
            with suppress(OwnerChanged):
                return await self._until(gid, milestone, ask, context, branch_id=branch_id, is_command=True)
        return await self._until(gid, milestone, ask, context, branch_id=branch_id, is_command=True)

    async def _until(
        self,
        gid: str,
        milestone: Milestone,
        ask: Callable[[Waiter], Awaitable[None]],
        context: Context,
        *,
        branch_id: str = "",
        is_command: bool = False,
    ) -> Transaction:
        """Send a request to the engine and wait until the transaction reaches the milestone.

        Raises:
            KeepsFailing: the caller's deadline is near, and a branch keeps failing.
        """
        caller = _Caller(milestone, branch_id=branch_id, is_command=is_command)
        failpoint("rpc.request")
        alarm = asyncio.get_running_loop().call_later(
            self._reply_in_s(context), self._fail_if_branch_fails, gid, caller
        )
        try:
            await ask(caller)
            tx = await caller.reached
        except BaseException:
            caller.reached.cancel()
            self._engine.abandon(gid)
            raise
        finally:
            alarm.cancel()
        failpoint("rpc.reply.before")
        return tx

    def _reply_in_s(self, context: Context) -> float:
        """Return how long a caller may wait while a branch keeps failing."""
        time_left_s = context.time_remaining()
        if time_left_s is None:
            time_left_s = self.call_max_s
        return time_left_s - min(REPLY_MARGIN_MAX_S, time_left_s * REPLY_MARGIN)

    def _fail_if_branch_fails(self, gid: str, waiter: Waiter) -> None:
        """Fail `waiter` with the branch that keeps failing, if this coordinator knows one."""
        entry = self._engine.live.get(gid)
        branch = None if entry is None or waiter.is_cancelled() else failing_branch(entry.tx)
        if branch is not None:
            waiter.fail(_keeps_failing(gid, branch))

    def _fail_if_branches_fail(self, items: Sequence[tuple[str, "_Item"]]) -> None:
        for gid, waiter in items:
            self._fail_if_branch_fails(gid, waiter)


class _Caller(Waiter):
    """A call for one transaction. It awaits `reached`, and cancels it if the call ends first."""

    __slots__ = ("reached",)

    def __init__(self, milestone: Milestone, *, branch_id: str, is_command: bool) -> None:
        super().__init__(milestone, branch_id=branch_id, is_command=is_command)
        self.reached: asyncio.Future[Transaction] = asyncio.get_running_loop().create_future()

    def settle(self, tx: Transaction) -> None:
        if not self.reached.done():
            self.reached.set_result(tx)

    def fail(self, error: Refused) -> None:
        if not self.reached.done():
            self.reached.set_exception(error)

    def is_cancelled(self) -> bool:
        return self.reached.done()


class _Item(Waiter):
    """One transaction of a batch."""

    __slots__ = ("_answered", "_index", "_replies")

    def __init__(self, milestone: Milestone, collected: Replies, index: int) -> None:
        super().__init__(milestone)
        self._replies = collected
        self._index = index
        # Shortly before the deadline it may be answered while the engine still holds it.
        self._answered = False

    def settle(self, tx: Transaction) -> None:
        size = replies.outcome_bytes(tx)
        if self._replies.has_room(size):
            self._add(pb.ExecuteTransactionsReply(index=self._index, outcome=replies.outcome(tx)), size)
        else:
            self.fail(responses_unread())

    def fail(self, error: Refused) -> None:
        self._add(_refusal(self._index, error), ERROR_BYTES)

    def is_cancelled(self) -> bool:
        return self._answered or self._replies.closed

    def _add(self, reply: pb.ExecuteTransactionsReply, size: int) -> None:
        if not self._answered:
            self._answered = True
            self._replies.add(reply, size)


def _refusal(index: int, error: Refused) -> pb.ExecuteTransactionsReply:
    return pb.ExecuteTransactionsReply(index=index, error=to_error(error))


def _keeps_failing(gid: str, branch: Branch) -> KeepsFailing:
    branch_id, last_error = branch.spec.branch_id, _header_text(branch.last_error)
    return KeepsFailing(
        f"transaction {gid} did not finish in time, branch {branch_id}: {last_error}",
        metadata={"gid": gid, "branch_id": branch_id, "last_error": last_error},
    )


def _header_text(text: str) -> str:
    text = bounded_text(text, CANCEL_MESSAGE_CHARACTERS_MAX)
    return text.encode()[:LAST_ERROR_BYTES_MAX].decode(errors="ignore")


def _too_late(tx: Transaction) -> AlreadyDecided:
    return AlreadyDecided(
        f"the transaction became {tx.state.name} before this branch could be tried",
        metadata=status_metadata(tx),
    )


def _decided_otherwise(tx: Transaction) -> DecisionConflict:
    why = f": {tx.cancel_reason.name} {tx.cancel_detail}".rstrip() if tx.cancel_reason else ""
    return DecisionConflict(
        f"the transaction is {tx.state.name}{why}; a decision never changes",
        metadata=status_metadata(tx),
    )
