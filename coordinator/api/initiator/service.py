"""TransactionService: turn initiators' requests into events for the engine, and wait for the results."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError, Message

from coordinator.api.access import Access
from coordinator.api.arrivals import unreadable
from coordinator.api.calls import CallLimit, UnreadBytes, responses_unread
from coordinator.api.errors import Context, call_too_long, refusals_as_statuses, to_error
from coordinator.api.initiator import replies
from coordinator.api.initiator.batch import Batch, BatchItem, Frame, Item, Replies
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
from coordinator.api.initiator.stream import StreamItem, TransactionStream, streamed_item
from coordinator.api.initiator.stream_places import StreamPlaces
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
from coordinator.ports.participants import StreamLoad
from coordinator.security.caller import Client
from coordinator.security.rates import Rates
from tcc._internal.failpoint import failpoint
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc

# How often a step is retried while coordinators take the transaction over from each other.
COMMAND_REPEATS_MAX = 4
# A caller learns that a branch keeps failing before its deadline: by this share of its time, and
# by at most this much. It is less than for an expiry, which explains more.
REPLY_MARGIN = 0.05
REPLY_MARGIN_MAX_S = 0.1
# The error is sent twice in headers, whose size is limited.
LAST_ERROR_BYTES_MAX = 1_000
_STREAM = "/tcc.transaction.v1.TransactionService/StreamTransactions"


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
        streams_max: int,
        coordinator_id: str = "",
        new_trace: NewTrace | None = None,
        access: Access | None = None,
    ) -> None:
        """`new_trace`: set if this coordinator makes spans.

        `completions`: the Confirms and Cancels that wait for the completion. `response_max_s`: how
        long a client may take to read a response of a batch or a stream. `streams_max`: how many may
        be open. `coordinator_id`: tells the clients of streams which process this is.
        """
        self._engine = engine
        self._log = log
        self._clock = clock
        self._limits = limits
        self._new_trace = new_trace
        self._access = access
        self._coordinator_id = coordinator_id
        self._streams: StreamPlaces[TransactionStream] = StreamPlaces(streams_max)
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
        client = calling_client()
        limits = limits_of(client, self._limits)
        tx = self._new_transaction(request, context.time_remaining(), client, limits, context)
        return pb.ExecuteTransactionResponse(
            outcome=replies.outcome(await self._begun(tx, milestone, context))
        )

    @refusals_as_statuses
    async def ExecuteTransactions(self, request: Batch, context: Context) -> None:
        collected: Replies[pb.ExecuteTransactionsReply] = Replies(self._unread)
        begun, unknown = self._begin_batch(request, collected, context.time_remaining())
        alarm = asyncio.get_running_loop().call_later(
            self._reply_in_s(context.time_remaining()), self._fail_if_branches_fail, begun
        )
        missing = len(request.items)
        try:
            if unknown:
                await self._engine.rejoin(unknown)
            while missing:
                taken = await collected.take()
                missing -= len(taken)
                await self._send(pb.ExecuteTransactionsResponse(replies=taken), collected, context)
        finally:
            alarm.cancel()
            collected.close()
            collected.release_sent()

    async def _send(self, response: Message, collected: Replies[Any], context: Context) -> None:
        """Send a response, which the client has to take in time.

        Raises:
            ResponsesUnread
        """
        too_slow = asyncio.get_running_loop().call_later(self._response_max_s, collected.close)
        with self._slow_readers.sending(context):
            await context.write(response)
        too_slow.cancel()
        if collected.closed:
            raise responses_unread()

    def _begin_batch(
        self, request: Batch, collected: Replies[pb.ExecuteTransactionsReply], time_left_s: float | None
    ) -> tuple[list[tuple[str, Waiter]], list["_Unknown"]]:
        """Begin the transactions of a batch. Return their requests, and those of unknown participants."""
        together = self._together()
        begun: list[tuple[str, Waiter]] = []
        # The call itself counts as one.
        admitted = 1 + self._take_rate(together.client, max(0, len(request.items) - 1))
        for index, raw in enumerate(request.items):
            waiter = BatchItem(collected, index)
            try:
                if index >= admitted:
                    raise self._over_rate(together.client)
                item = transaction_request(raw, self._limits)
                begun.append((self._begin_item(item, waiter, time_left_s, together), waiter))
            except Refused as error:
                waiter.fail(error)
        return begun, together.unknown

    def _begin_item(
        self,
        request: pb.ExecuteTransactionRequest,
        waiter: Item,
        time_left_s: float | None,
        together: "_Together",
    ) -> str:
        """Begin one of several transactions, or note that a participant is unknown. Return its gid.

        Raises:
            Refused
        """
        if together.refused is not None and request.gid not in self._engine.live:
            waiter.refuse(together.refused)
            return request.gid
        waiter.milestone = milestone_of(request.wait_for)
        tx = self._new_transaction(request, time_left_s, together.client, together.limits)
        try:
            self._engine.begin(tx, waiter)
        except UnknownParticipant as error:
            together.unknown.append((tx, waiter, error))
        return tx.gid

    def _together(self) -> "_Together":
        # If all will be refused anyway, refuse them before more is spent than reading them.
        client = calling_client()
        return _Together(client, limits_of(client, self._limits), self._refused(), [])

    def _refused(self) -> common.Error | None:
        """Return the error of every new transaction now; None: it depends on the transaction."""
        refusal = self._engine.refusal()
        return None if refusal is None else to_error(refusal)

    def _take_rate(self, client: Client | None, count: int) -> int:
        """Count transactions of a client; return how many of them it may execute now."""
        return count if client is None else self._rates().take(client, count)

    def _over_rate(self, client: Client | None) -> Refused:
        """Return the refusal of a transaction that `_take_rate` did not admit."""
        assert client is not None, "only those of clients are counted"
        return self._rates().refusal(client)

    def _rates(self) -> Rates:
        assert self._access is not None, "it has authenticated the client"
        return self._access.rates

    # --- streams ----------------------------------------------------------

    async def StreamTransactions(self, _requests: object, context: Context) -> None:
        credit = self._limits.batch_max
        stream = TransactionStream(
            self._unread,
            credit=credit,
            on_late=self._on_item_late,
            holder=_holder(context),
            on_give_way=self._slow_readers.ending_soon(),
        )
        try:
            await self._streams.take(stream)
            # Not before: it may take a while.
            if self._engine.draining and (refusal := self._engine.refusal()) is not None:
                raise refusal
            response: pb.StreamTransactionsResponse | None = pb.StreamTransactionsResponse(
                credit=credit, coordinator_id=self._coordinator_id
            )
            stream.start(asyncio.create_task(self._read(stream, context)))
            while response is not None:
                failpoint("rpc.stream.reply.before")
                await self._send(response, stream.replies, context)
                failpoint("rpc.stream.reply.after")
                response = await stream.take()
        finally:
            stream.close()
            self._streams.leave(stream)

    def stream_load(self) -> StreamLoad:
        """Return what is open to initiators."""
        streams = [*self._streams]
        return StreamLoad(streams=len(streams), in_flight=sum(len(stream.items) for stream in streams))

    def drain_streams(self) -> None:
        """Ask the clients of all streams to open others elsewhere."""
        for stream in self._streams:
            stream.drain()

    async def _read(self, stream: TransactionStream, context: Context) -> None:
        """Begin what a stream brings, until its client half-closes it."""
        check = None if self._access is None else self._access.rechecked(_STREAM, context)
        try:
            while (frame := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
                failpoint("rpc.stream.request")
                over_rate = self._begin_frame(stream, cast("Frame", frame), check)
                await stream.until_room()
                if over_rate is not None:
                    await stream.pause(over_rate.retry_after_s)
        except DecodeError:
            raise unreadable() from None

    def _begin_frame(
        self, stream: TransactionStream, frame: Frame, check: Callable[[], None] | None
    ) -> Refused | None:
        """Begin the items of one request of a stream, and forget those whose callers have left.

        Return the refusal of what is above the client's rate. A request without items counts as one item.
        """
        for cancelled in frame.cancelled_ids:
            if (gid := stream.cancel(cancelled)) is not None:
                self._engine.abandon(gid)
        not_admitted = None if check is None or not frame.items else _error_of(check)
        together = self._together()
        count = max(1, len(frame.items))
        admitted = count if not_admitted is not None else self._take_rate(together.client, count)
        over_rate = None if admitted == count else self._over_rate(together.client)
        for number, raw in enumerate(frame.items):
            item, unreadable_as = streamed_item(raw, self._limits)
            waiter = StreamItem(stream, item.id, item.transaction.gid)
            stream.begin(waiter)
            if not_admitted is not None:
                waiter.refuse(not_admitted)
            elif over_rate is not None and number >= admitted:
                waiter.fail(over_rate)
            elif unreadable_as is not None:
                waiter.fail(unreadable_as)
            else:
                self._begin_streamed(item, waiter, together)
        if together.unknown:
            stream.watch(asyncio.create_task(self._rejoin(together.unknown)))
        return over_rate

    def _begin_streamed(
        self,
        item: pb.StreamTransactionsItem,
        waiter: StreamItem,
        together: "_Together",
    ) -> None:
        time_left_s = item.timeout_ms / 1000 if item.timeout_ms else None
        try:
            gid = self._begin_item(item.transaction, waiter, time_left_s, together)
        except Refused as error:
            waiter.fail(error)
        else:
            waiter.began(gid, self._reply_in_s(time_left_s), has_timeout=time_left_s is not None)

    async def _rejoin(self, unknown: list["_Unknown"]) -> None:
        try:
            await self._engine.rejoin(unknown)
        except Refused as error:
            for _, waiter, _ in unknown:
                waiter.fail(error)

    def _on_item_late(self, item: StreamItem) -> None:
        """Answer an item whose caller will leave soon, as a call would be."""
        self._fail_if_branch_fails(item.gid, item)
        if not item.has_timeout:
            item.fail(call_too_long(self.call_max_s))

    def _new_transaction(
        self,
        request: pb.ExecuteTransactionRequest,
        time_left_s: float | None,
        client: Client | None,
        limits: RequestLimits,
        call: "Context | None" = None,
    ) -> Transaction:
        # Check this first: whole transactions come by the thousand, and most have no trace.
        traced = self._new_trace is not None or request.traceparent
        tx = new_transaction(
            request,
            gid="" if request.gid else new_gid(client),
            now=self._clock.now(),
            time_left_s=time_left_s,
            limits=limits,
            cancel_in_stage_order=self._engine.cancel_in_stage_order,
            trace=trace_of(request, call, self._new_trace) if traced else None,
            tenant=tenant_of(client) or "",
        )
        if client is not None:
            check_gid(client, tx.gid)
            check_calls(client, [branch.spec for branch in tx.branches])
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
            self._reply_in_s(context.time_remaining()), self._fail_if_branch_fails, gid, caller
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

    def _reply_in_s(self, time_left_s: float | None) -> float:
        """Return how long a caller may wait while a branch keeps failing."""
        if time_left_s is None:
            time_left_s = self.call_max_s
        return time_left_s - min(REPLY_MARGIN_MAX_S, time_left_s * REPLY_MARGIN)

    def _fail_if_branch_fails(self, gid: str, waiter: Waiter) -> None:
        """Fail `waiter` with the branch that keeps failing, if this coordinator knows one."""
        entry = self._engine.live.get(gid)
        branch = None if entry is None or waiter.is_cancelled() else failing_branch(entry.tx)
        if branch is not None:
            waiter.fail(_keeps_failing(gid, branch))

    def _fail_if_branches_fail(self, items: Sequence[tuple[str, Waiter]]) -> None:
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


# A transaction with an unknown participant, and the refusal that it gets unless the log holds it.
_Unknown: TypeAlias = tuple[Transaction, Waiter, Refused]


class _Together(NamedTuple):
    """What transactions that arrive together have in common."""

    client: Client | None
    limits: RequestLimits
    # The error of each new one now.
    refused: common.Error | None
    # To be filled.
    unknown: list[_Unknown]


def _holder(context: Context) -> str:
    """Return who holds a stream: a client, or without identities the host that it comes from."""
    client = calling_client()
    return context.peer().rpartition(":")[0] if client is None else client.name


def _error_of(check: Callable[[], None]) -> common.Error | None:
    """Return the error of the refusal that a check raises; None: it raises none."""
    try:
        check()
    except Refused as error:
        return to_error(error)
    return None


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
