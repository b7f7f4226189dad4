"""Transactions step by step: business logic between the Trys, one decision at the end.

`InteractiveTransaction` is its initiator's handle and decides. `Enlistment` is what a
service gets that is called inside somebody else's transaction: it adds branches
and decides nothing.
"""

from collections.abc import Awaitable, Generator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from google.protobuf.timestamp_pb2 import Timestamp

from tcc._internal.uuid7 import uuid7
from tcc.client.connection import Connection
from tcc.client.outcome import (
    CancelReason,
    Outcome,
    TransactionState,
    TryResult,
    WaitFor,
    outcome_of,
    record_of,
    wait_for_number,
)
from tcc.client.requests import BranchIds, branch_spec, duration
from tcc.common.v1 import common_pb2 as common
from tcc.context import TransactionContext, handling_participant
from tcc.errors import (
    AlreadyDecided,
    DecisionConflict,
    InternalError,
    InvalidRequest,
    PreconditionFailed,
    TccError,
    TransactionCancelled,
    error_from_outcome,
)
from tcc.transaction.v1 import transaction_pb2 as pb

if TYPE_CHECKING:
    from tcc.client.tracing import InitiatorTracing, TransactionSpan

_CANCEL_REASONS = {
    common.BRANCH_STATE_REJECTED: CancelReason.REJECTED,
    common.BRANCH_STATE_FAILED: CancelReason.TRY_FAILED,
}
# The coordinator takes 1,000 characters; a program's own words rarely need that.
_REASON_CHARACTERS_MAX = 300


class Enlistment:
    """Adds branches to an undecided transaction. From `Client.join` and `Client.current_transaction`.

    A branch without an id is named after its participant, behind the id of the
    branch that this service was called for: `order/inventory`. A repeated call
    thus names its branches as before and gets the same ones back.
    """

    def __init__(self, connection: Connection, context: TransactionContext) -> None:
        self._connection = connection
        self._context = context
        self._timeout_s: float | None = None
        self._ids = BranchIds(prefix=f"{context.branch_id}/" if context.branch_id else "")
        # Without the branch that it was called for, a service cannot name branches
        # that nobody else in the transaction names the same.
        self._names_branches = bool(context.branch_id)

    @property
    def gid(self) -> str:
        return self._context.gid

    @property
    def context(self) -> TransactionContext:
        """What is to be sent to services that shall enlist branches of their own."""
        return self._context

    async def try_(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        branch_id: str = "",
        timeout_s: float | None = None,
    ) -> TryResult:
        """Add a branch; the coordinator calls its Try. Return what Try returned.

        Arguments as in `BranchRequest`; `timeout_s` as in `Client.execute`.

        Raises:
            TransactionCancelled: The Try was rejected (`cancel_reason` REJECTED, `detail` is the
                participant's reason, `cancel_message` what it said) or cannot succeed
                (TRY_FAILED), or the transaction was cancelled before, for example because it
                expired; TryTimedOut where a branch kept failing until then.
            AlreadyDecided: The transaction is being confirmed.
            InvalidRequest: `NESTED_TRY`: the caller is a handler of this very participant.
            TccError: As in `Client.execute`. Whether the branch was added is not known then.
        """
        if handling_participant.get() == participant:
            raise InvalidRequest(
                f"a handler of participant {participant} cannot enlist a branch at {participant} itself: it "
                "holds a connection, and the inner Try needs another; do this work in the handler, or let "
                "the initiator add the branch",
                reason="NESTED_TRY",
            )
        spec = branch_spec(participant, action, payload, self._branch_id(participant, branch_id))
        response: pb.TryBranchResponse = await self._add(
            lambda stub: stub.TryBranch, pb.TryBranchRequest(gid=self.gid, branch=spec), timeout_s
        )
        if response.state != common.BRANCH_STATE_TRIED:
            raise _not_tried(self.gid, spec.branch_id, response)
        return TryResult(
            branch_id=spec.branch_id, data=response.result, content_type=response.result_content_type
        )

    def register(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        branch_id: str = "",
        timeout_s: float | None = None,
    ) -> "Registration":
        """Add a branch whose Try the caller performs with a call of its own.

        Awaited, or entered as `async with`, it gives the branch's `TransactionContext`, which
        the Try needs; within the block that context is the current one, so that intercepted
        channels (tcc.context) send it along:

            async with tx.register("order", "open_order", payload):
                await orders.OpenOrder(request)

        Confirming the transaction vouches that this Try succeeded. Raises as `try_` does,
        except that nothing is tried and so nothing is rejected.
        """
        spec = branch_spec(participant, action, payload, self._branch_id(participant, branch_id))
        return Registration(self._register(spec, timeout_s))

    async def _register(self, spec: common.BranchSpec, timeout_s: float | None) -> TransactionContext:
        response: pb.RegisterBranchResponse = await self._add(
            lambda stub: stub.RegisterBranch, pb.RegisterBranchRequest(gid=self.gid, branch=spec), timeout_s
        )
        return TransactionContext(
            gid=self.gid, branch_id=spec.branch_id, expires_at_ms=_milliseconds(response.expires_at)
        )

    async def _add(self, method: Any, request: object, timeout_s: float | None) -> Any:
        try:
            return await self._call(method, request, timeout_s)
        except (AlreadyDecided, DecisionConflict) as error:
            await raise_if_cancelled(self._connection, self.gid, error)
            raise

    async def _call(self, method: Any, request: object, timeout_s: float | None) -> Any:
        return await self._connection.call(
            method, request, self._timeout_s if timeout_s is None else timeout_s
        )

    def _branch_id(self, participant: str, branch_id: str) -> str:
        if not branch_id and not self._names_branches:
            raise InvalidRequest(
                "the context names no branch: give a branch_id that is unique in the transaction",
                reason="BRANCH_ID_MISSING",
            )
        return self._ids.choose(participant, branch_id)


class Registration(Awaitable[TransactionContext]):
    """A branch being registered; see `Enlistment.register`."""

    def __init__(self, registering: Awaitable[TransactionContext]) -> None:
        self._registering = registering
        self._context: TransactionContext | None = None

    def __await__(self) -> Generator[Any, None, TransactionContext]:
        return self._registering.__await__()

    async def __aenter__(self) -> TransactionContext:
        self._context = await self._registering
        return self._context.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._context is not None
        self._context.__exit__(kind, error, traceback)


class InteractiveTransaction(Enlistment):
    """An interactive transaction, from `Client.transaction`.

    As `async with` it begins on entering. Leaving the block confirms; an
    exception cancels and propagates, `asyncio.CancelledError` included. Within
    the block its context is the current one. `confirm` and `cancel` end it
    earlier; leaving does nothing more then.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        gid: str,
        expiry_s: float | None,
        labels: Mapping[str, str] | None,
        wait_for: WaitFor,
        initiator: str,
        timeout_s: float | None,
        tracing: "InitiatorTracing | None" = None,
    ) -> None:
        super().__init__(connection, TransactionContext(gid=gid or uuid7()))
        self._names_branches = True
        self._timeout_s = timeout_s
        self._wait_for = wait_for
        self._begin_request = pb.BeginTransactionRequest(
            gid=self.gid, expiry=duration(expiry_s), labels=labels or {}, initiator=initiator
        )
        self._tracing = tracing
        self._span: TransactionSpan | None = None
        wait_for_number(wait_for)  # a wrong word is refused before anything is begun
        #: How the transaction ended; None until it has.
        self.outcome: Outcome | None = None

    @property
    def expires_at(self) -> datetime | None:
        """When the coordinator cancels it if it is undecided, in UTC; None before it has begun."""
        return self._context.expires_at

    async def begin(self) -> None:
        """Begins the transaction durably. Entering the block does this."""
        if self._tracing is not None and self._span is None:
            self._span = self._tracing.start("tcc.transaction", self._begin_request)
        try:
            response: pb.BeginTransactionResponse = await self._call(
                lambda stub: stub.BeginTransaction, self._begin_request, None
            )
        except BaseException as error:
            self._end_span(error)
            raise
        self._context = TransactionContext(gid=self.gid, expires_at_ms=_milliseconds(response.expires_at))

    async def confirm(self) -> Outcome:
        """Asks for the decision CONFIRM. Leaving the block does this.

        Raises:
            TransactionCancelled: It was cancelled before, for example because it expired.
            TccError: As in `Client.execute`. The decision is not known then, and
                `Client.confirm(gid)` may be repeated until it is.
        """
        try:
            self.outcome = await confirm(self._connection, self.gid, self._wait_for, self._timeout_s)
        except TransactionCancelled as error:
            self.outcome = error.outcome
            self._end_span()
            raise
        self._end_span()
        return self.outcome

    async def cancel(self, reason: str = "") -> Outcome:
        """Asks for the decision CANCEL; `reason` is for operators and logs.

        Raises:
            DecisionConflict: It is confirmed.
            TccError: As in `Client.execute`. If it is not cancelled now, its expiry will.
        """
        self.outcome = await cancel(self._connection, self.gid, reason, self._wait_for, self._timeout_s)
        self._end_span()
        return self.outcome

    async def finish(self, error: BaseException | None) -> None:
        """Confirm, or cancel because of `error`. Leaving the block does this."""
        if self.outcome is not None:
            return
        try:
            if error is None:
                await self.confirm()
            elif isinstance(error, TransactionCancelled) and error.outcome.gid == self.gid:
                self.outcome = error.outcome
            else:
                await self._cancel_because_of(error)
        except BaseException as failure:
            self._end_span(failure)
            raise
        self._end_span(error)

    def enter(self) -> None:
        """Make its context the current one, and its span, if it has one. Entering the block does this."""
        self._context.__enter__()
        if self._span is not None:
            self._span.enter()

    def leave(self) -> None:
        """Undo `enter`."""
        if self._span is not None:
            self._span.leave()
        self._context.__exit__(None, None, None)

    def _end_span(self, error: BaseException | None = None) -> None:
        if self._span is not None:
            self._span.end(self.outcome, error)

    async def _cancel_because_of(self, error: BaseException) -> None:
        try:
            await self.cancel(_reason_of(error))
        except TccError as failure:
            # The block's own error is what the caller must see; the expiry cancels in any case.
            error.add_note(f"transaction {self.gid} could not be cancelled at once: {failure}")

    async def __aenter__(self) -> Self:
        await self.begin()
        self.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()
        await self.finish(error)


async def confirm(connection: Connection, gid: str, wait_for: WaitFor, timeout_s: float | None) -> Outcome:
    """Asks for the decision CONFIRM. Raises TransactionCancelled where the other was taken."""
    request = pb.ConfirmTransactionRequest(gid=gid, wait_for=wait_for_number(wait_for))
    try:
        response = await connection.call(lambda stub: stub.ConfirmTransaction, request, timeout_s)
    except (AlreadyDecided, DecisionConflict) as error:
        await raise_if_cancelled(connection, gid, error)
        raise
    return checked(outcome_of(response.outcome))


async def cancel(
    connection: Connection, gid: str, reason: str, wait_for: WaitFor, timeout_s: float | None
) -> Outcome:
    """Asks for the decision CANCEL. Raises DecisionConflict where the other was taken."""
    request = pb.CancelTransactionRequest(gid=gid, reason=reason, wait_for=wait_for_number(wait_for))
    response = await connection.call(lambda stub: stub.CancelTransaction, request, timeout_s)
    return outcome_of(response.outcome)


def checked(outcome: Outcome) -> Outcome:
    """Return the outcome, unless it is CANCEL: that is raised as TransactionCancelled."""
    if outcome.cancelled:
        raise error_from_outcome(outcome)
    return outcome


async def raise_if_cancelled(connection: Connection, gid: str, error: PreconditionFailed) -> None:
    """Says why a transaction takes no more steps, where the reason is that it was cancelled."""
    response = await connection.call(
        lambda stub: stub.GetTransaction, pb.GetTransactionRequest(gid=gid), None
    )
    record = record_of(response.transaction)
    outcome = Outcome(
        gid=gid,
        state=record.state,
        cancel_reason=record.cancel_reason,
        cancel_branch_id=record.cancel_branch_id,
        cancel_detail=record.cancel_detail,
        cancel_message=record.cancel_message,
    )
    if outcome.cancelled:
        raise error_from_outcome(outcome) from error


def _not_tried(gid: str, branch_id: str, response: pb.TryBranchResponse) -> TccError:
    reason = _CANCEL_REASONS.get(response.state)
    if reason is None:
        return InternalError(f"a Try ended in the unknown branch state {response.state}")
    outcome = Outcome(
        gid=gid,
        state=TransactionState.CANCELLING,
        cancel_reason=reason,
        cancel_branch_id=branch_id,
        cancel_detail=response.reason,
        cancel_message=response.message,
    )
    return error_from_outcome(outcome)


def _reason_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\0", " ")[:_REASON_CHARACTERS_MAX]


def _milliseconds(moment: Timestamp) -> int:
    return moment.seconds * 1000 + moment.nanos // 1_000_000
