"""Interactive transactions: business logic between the Trys, one decision at the end.

`InteractiveTransaction` is for the initiator, which decides. `Enlistment` is for a
service that is called within a transaction of another process: it adds branches and
cannot decide.
"""

import asyncio
from collections.abc import Awaitable, Generator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from google.protobuf.timestamp_pb2 import Timestamp

from tcc import payload as payloads
from tcc._internal.plain_text import message_of, plain_text
from tcc._internal.uuid7 import uuid7
from tcc.branch import LOCAL_ACTION
from tcc.client import arguments
from tcc.client.connection import Connection
from tcc.client.local import LocalBranch, LocalParticipant
from tcc.client.outcome import (
    CancelReason,
    Outcome,
    TransactionState,
    TryResult,
    WaitFor,
    outcome_of,
    record_of,
    try_result,
    wait_for_number,
)
from tcc.client.requests import BranchIds, TriedKind, branch_spec, duration, tried_kind
from tcc.common.v1 import common_pb2 as common
from tcc.context import TransactionContext, handling_participant
from tcc.errors import (
    AlreadyDecided,
    Conflict,
    DecisionConflict,
    InternalError,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    ResourceExhausted,
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
# The branch was certainly not added by the call that raised.
_NOTHING_ADDED = (AlreadyDecided, Conflict, InvalidRequest, NotFound, ResourceExhausted, TransactionCancelled)
# The coordinator's limit.
_REASON_CHARACTERS_MAX = 1_000


class Enlistment:
    """Adds branches to an undecided transaction. From `Client.join` and `Client.current_transaction`.

    The default id of a branch is the participant's name after the id of the branch that this
    service was called for: `order/inventory`. A repeated call therefore uses the same ids and
    gets the same branches.
    """

    def __init__(self, connection: Connection, context: TransactionContext) -> None:
        self._connection = connection
        self._context = context
        self._timeout_s: float | None = None
        self._ids = BranchIds(prefix=f"{context.branch_id}/" if context.branch_id else "")
        # Without the id of the branch that it was called for, a service cannot choose ids that
        # are unique in the transaction.
        self._names_branches = bool(context.branch_id)
        # The errors of the Trys that failed or whose end is not known, by branch.
        self._untried: dict[str, BaseException] = {}

    @property
    def gid(self) -> str:
        return self._context.gid

    @property
    def context(self) -> TransactionContext:
        """The context to send to services that enlist branches of their own."""
        return self._context

    async def try_(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        branch_id: str = "",
        kind: TriedKind = "tcc",
        timeout_s: float | None = None,
    ) -> TryResult:
        """Add a branch, whose Try the coordinator calls. Return the result of the Try.

        The arguments are those of `BranchRequest`; `kind` is "tcc" or "saga", and `timeout_s` is as
        in `Client.execute`.

        Raises:
            TransactionCancelled: The Try was rejected (`cancel_reason` REJECTED, `detail` and
                `cancel_message` are the participant's reason and message) or failed permanently
                (TRY_FAILED), or the transaction was cancelled before, for example because it
                expired (TryTimedOut if a branch kept failing until then).
            AlreadyDecided: The transaction is being confirmed.
            InvalidRequest: `NESTED_TRY`: the caller is a handler of the same participant.
            TccError: As in `Client.execute`. The branch may have been added.
        """
        if participant and handling_participant.get() == participant:
            raise InvalidRequest(
                f"a handler of participant {participant} cannot enlist a branch at {participant} itself: it "
                "holds a connection, and the inner Try needs another; do this work in the handler, or let "
                "the initiator add the branch",
                reason="NESTED_TRY",
            )
        spec = self._branch(participant, action, payload, branch_id, kind)
        arguments.optional_seconds("timeout_s", timeout_s)
        try:
            response: pb.TryBranchResponse = await self._add(
                lambda stub: stub.TryBranch, pb.TryBranchRequest(gid=self.gid, branch=spec), timeout_s
            )
        except _NOTHING_ADDED:
            raise
        except BaseException as error:
            self._untried[spec.branch_id] = error
            raise
        self._untried.pop(spec.branch_id, None)
        if response.state != common.BRANCH_STATE_TRIED:
            raise _not_tried(self.gid, spec.branch_id, response)
        return try_result(
            self.gid,
            spec.branch_id,
            response.result,
            response.result_content_type,
            self._connection.payload_codec,
        )

    def register(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        branch_id: str = "",
        kind: TriedKind = "tcc",
        timeout_s: float | None = None,
    ) -> "Registration":
        """Add a branch whose Try the caller performs with a call of its own.

        The returned object is awaited or entered with `async with`. Both give the branch's
        `TransactionContext`, which the Try needs. Within the block it is the current context, so
        intercepted channels (tcc.context) send it:

            async with tx.register("order", "open_order", payload):
                await orders.OpenOrder(request)

        By confirming the transaction, the caller asserts that this Try succeeded. If the block
        raises, the transaction can be cancelled only, even if the caller catches the error; unless
        a later block with the same `branch_id` succeeds. Raises the errors of `try_`, except a
        rejection, because the coordinator calls no Try.
        """
        spec = self._branch(participant, action, payload, branch_id, kind)
        arguments.optional_seconds("timeout_s", timeout_s)
        return Registration(self, self._register(spec, timeout_s))

    async def _register(
        self,
        spec: common.BranchSpec,
        timeout_s: float | None,
        *,
        check_back: bool = False,
        messages: Sequence[common.BranchSpec] = (),
    ) -> TransactionContext:
        request = pb.RegisterBranchRequest(
            gid=self.gid, branch=spec, check_back=check_back, messages=messages
        )
        try:
            response: pb.RegisterBranchResponse = await self._add(
                lambda stub: stub.RegisterBranch, request, timeout_s
            )
        except _NOTHING_ADDED:
            raise
        except BaseException as error:
            self._untried[spec.branch_id] = error
            raise
        return TransactionContext(
            gid=self.gid, branch_id=spec.branch_id, expires_at_ms=_milliseconds(response.expires_at)
        )

    async def end_try(self, branch_id: str, error: BaseException | None) -> None:
        """Note how the caller's own Try of a registered branch ended. Leaving `register`'s block does this.

        A service that joined the transaction does not decide. So it cancels the transaction at once.
        """
        self.note_try(branch_id, error)
        if error is not None:
            await self._cancel_because_of(error)

    def note_try(self, branch_id: str, error: BaseException | None) -> None:
        if error is None:
            self._untried.pop(branch_id, None)
        else:
            self._untried[branch_id] = error

    async def _cancel_because_of(self, error: BaseException) -> Outcome | None:
        try:
            return await cancel(self._connection, self.gid, _reason_of(error), "decision", self._timeout_s)
        except TccError as failure:
            # The caller must see its own error; the expiry cancels in any case.
            error.add_note(f"transaction {self.gid} could not be cancelled at once: {failure}")
            return None

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

    def _branch(
        self, participant: str, action: str, payload: object, branch_id: str, kind: TriedKind
    ) -> common.BranchSpec:
        self.check_open()
        tried_kind(kind)
        if not branch_id and not self._names_branches:
            raise InvalidRequest(
                "the context has no branch: give a branch_id that is unique in the transaction",
                reason="BRANCH_ID_MISSING",
            )
        return branch_spec(
            participant,
            action,
            payload,
            branch_id,
            kind=kind,
            ids=self._ids,
            gid=self.gid,
            codec=self._connection.payload_codec,
        )

    def check_open(self) -> None:
        """Raise PreconditionFailed if no branch can be added any more."""


class Registration(Awaitable[TransactionContext]):
    """A branch being registered; see `Enlistment.register`."""

    def __init__(self, enlistment: Enlistment, registering: Awaitable[TransactionContext]) -> None:
        self._enlistment = enlistment
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
        await self._enlistment.end_try(self._context.branch_id, error)


class InteractiveTransaction(Enlistment):
    """An interactive transaction, from `Client.transaction`.

    Entering it with `async with` begins the transaction. Leaving the block confirms; an
    exception cancels and propagates, `asyncio.CancelledError` included. If a Try failed, or its
    end is not known, leaving cancels and raises TransactionCancelled, even if the block caught the
    error; unless the same `branch_id` was tried again with success. Within the block,
    the transaction's context is the current one. After `confirm` or `cancel`, leaving the
    block does nothing.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        gid: str | None,
        expiry_s: float | None,
        labels: Mapping[str, str] | None,
        wait_for: WaitFor,
        initiator: str,
        timeout_s: float | None,
        tracing: "InitiatorTracing | None" = None,
    ) -> None:
        super().__init__(connection, TransactionContext(gid=uuid7() if gid is None else arguments.gid(gid)))
        self._names_branches = True
        self._timeout_s = arguments.optional_seconds("timeout_s", timeout_s)
        self._wait_for = wait_for
        self._begin_request = pb.BeginTransactionRequest(
            gid=self.gid, expiry=duration(expiry_s), labels=arguments.labels(labels), initiator=initiator
        )
        self._tracing = tracing
        self._span: TransactionSpan | None = None
        wait_for_number(wait_for)  # an invalid word is refused before the transaction is begun
        self._messages: list[common.BranchSpec] = []
        # Digests of the branches that this initiator has asked for, by id.
        self._asked: dict[str, bytes] = {}
        self._local: LocalBranch | None = None
        self._is_local_made = False
        #: How the transaction ended; None until it has.
        self.outcome: Outcome | None = None

    @property
    def expires_at(self) -> datetime | None:
        """When the coordinator cancels it if it is undecided, in UTC; None before `begin`."""
        return self._context.expires_at

    async def begin(self) -> None:
        """Begin the transaction durably. Entering the block does this."""
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

    def message(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        branch_id: str = "",
        not_before: datetime | None = None,
    ) -> None:
        """Add a message that is delivered after the decision CONFIRM. Nothing is sent before.

        The arguments are those of `BranchRequest`. It becomes durable with the decision, or with
        the registration of a local branch.

        Raises:
            PreconditionFailed: `LOCAL_BRANCH_REGISTERED`: it comes after `local`.
            TypeError, ValueError: An argument cannot be sent.
        """
        self.check_open()
        self._messages.append(
            branch_spec(
                participant,
                action,
                payload,
                branch_id,
                kind="message",
                not_before=not_before,
                ids=self._ids,
                gid=self.gid,
                codec=self._connection.payload_codec,
            )
        )

    def local(
        self, participant: "LocalParticipant", *, branch_id: str = "", timeout_s: float | None = None
    ) -> "LocalBranch":
        """Decide by a change in the caller's own database. It comes last, after all Trys and messages.

            async with tx.local(orders) as db:  # orders: a tcc.Participant of this process
                await db.execute(insert_order)

        The block runs in a local transaction of the participant's database, which also holds the
        barrier's row of this branch; `db` is guarded as a handler's. If the block ends, the local
        transaction is committed, and only CONFIRM can be decided from then on. If it raises, it is
        rolled back, and the transaction is cancelled. If this process dies, or the connection is
        lost during COMMIT, the coordinator asks the participant after the expiry. So it must be in
        the coordinator's configuration, and serve by then.

        Raises:
            PreconditionFailed: `TRY_PENDING`: a Try failed, or its end is not known.
                `LOCAL_BRANCH_REGISTERED`: there is a local branch already. `LOCAL_REFUSED`: the
                transaction has expired; it is cancelled.
            LocalAlreadyCommitted: An earlier run with this gid has committed its change.
            LocalCommitUnknown: The connection was lost during COMMIT.
            TypeError: It is not a participant whose database is an AsyncEngine.
            TccError: As in `try_`. Errors of the block and of the database go through.
        """
        arguments.optional_seconds("timeout_s", timeout_s)
        local = LocalBranch(self, participant, branch_id, timeout_s)
        self._is_local_made = True
        return local

    async def register_local(
        self, local: "LocalBranch", participant: str, branch_id: str, timeout_s: float | None
    ) -> tuple[TransactionContext, bytes]:
        """Register the branch that decides. Return its context and fingerprint. `LocalBranch` does this.

        Its payload is a fingerprint of all that this initiator has asked for. The barrier's row has
        it, too. So another initiator of the same gid, which has asked for something else, neither
        registers the branch nor takes the row for its own.
        """
        self.check_open()
        if self._untried:
            failed, error = next(iter(self._untried.items()))
            raise PreconditionFailed(
                f"the Try of branch {failed} failed, or its end is not known; the local change comes last",
                reason="TRY_PENDING",
            ) from error
        spec = common.BranchSpec(
            branch_id=self._ids.choose(participant, branch_id),
            participant=participant,
            action=LOCAL_ACTION,
            payload=self._fingerprint(),
            content_type=payloads.OCTETS,
            kind=common.BRANCH_KIND_SAGA,
        )
        self._local = local
        context = await self._register(spec, timeout_s, check_back=True, messages=self._messages)
        return context, spec.payload

    def _fingerprint(self) -> bytes:
        """Return a digest of the branches and messages that this initiator has asked for, in any order."""
        messages = {spec.branch_id: _digest(spec) for spec in self._messages}
        digests = (self._asked | messages).items()
        return sha256(b"".join(digest for _, digest in sorted(digests))).digest()

    def _branch(
        self, participant: str, action: str, payload: object, branch_id: str, kind: TriedKind
    ) -> common.BranchSpec:
        spec = super()._branch(participant, action, payload, branch_id, kind)
        self._asked[spec.branch_id] = _digest(spec)
        return spec

    def check_open(self) -> None:
        """Raise PreconditionFailed if no branch can be added any more."""
        if self._local is not None:
            raise PreconditionFailed(
                f"transaction {self.gid} has a local branch: it comes last, and there is one",
                reason="LOCAL_BRANCH_REGISTERED",
            )

    async def confirm(self) -> Outcome:
        """Request the decision CONFIRM. Leaving the block does this.

        If a Try failed, or its end is not known, the decision CANCEL is requested instead.

        Raises:
            TransactionCancelled: It was cancelled before, for example because it expired, or now,
                because of a Try.
            PreconditionFailed: `LOCAL_BRANCH_OPEN`: the block of the local branch has not ended.
                `LOCAL_BRANCH_NOT_ENTERED`: `local` was called without `async with`. It is cancelled.
            LocalCommitUnknown: It is not known whether the local change was committed.
            TccError: As in `Client.execute`. The decision is then not known. Repeat this call, or
                without messages `Client.confirm(gid)`, until it is.
        """
        _check_local_ended(self._connection, self.gid)
        if self._local is not None and self._local.unknown is not None:
            raise self._local.unknown
        if self._untried:
            branch_id, error = next(iter(self._untried.items()))
            outcome = await self.cancel(f"the Try of branch {branch_id} failed: {_reason_of(error)}")
            raise error_from_outcome(outcome) from error
        if self._is_local_made and self._local is None:
            await self.cancel("the local branch was not entered")
            raise PreconditionFailed(
                f"transaction {self.gid} is cancelled: its local branch was not entered; "
                "write: async with tx.local(participant) as db",
                reason="LOCAL_BRANCH_NOT_ENTERED",
            )
        self._connection.interactive.discard(self.gid)
        try:
            self.outcome = await confirm(
                self._connection,
                self.gid,
                self._wait_for,
                self._timeout_s,
                # Those of a transaction with a local branch came with its registration.
                messages=() if self._local is not None else self._messages,
            )
        except TransactionCancelled as error:
            self.outcome = error.outcome
            self._end_span()
            raise
        self._end_span()
        return self.outcome

    async def cancel(self, reason: str = "") -> Outcome:
        """Request the decision CANCEL. `reason` is a text for operators and logs.

        Raises:
            DecisionConflict: The decision is CONFIRM: it was before, or the local change is committed.
            PreconditionFailed: `LOCAL_BRANCH_OPEN`: the block of the local branch has not ended.
            Unavailable: `CHECK_UNANSWERED`: the participant of the local branch did not answer.
            TccError: As in `Client.execute`. If it is not cancelled yet, it is when it expires.
        """
        _check_local_ended(self._connection, self.gid)
        self.outcome = await cancel(self._connection, self.gid, reason, self._wait_for, self._timeout_s)
        self._connection.interactive.discard(self.gid)
        self._end_span()
        return self.outcome

    async def finish(self, error: BaseException | None) -> None:
        """Confirm, or cancel because of `error`. Leaving the block does this.

        It is done even if the task is cancelled in the meantime.
        """
        finishing = asyncio.ensure_future(self._finish(error))
        try:
            await asyncio.shield(finishing)
        except asyncio.CancelledError:
            if not finishing.done():
                await asyncio.wait([finishing])
            raise

    async def _finish(self, error: BaseException | None) -> None:
        if self.outcome is not None:
            return
        try:
            if error is None:
                await self.confirm()
            elif self._local is not None and self._local.unknown is not None:
                pass  # neither is requested: the coordinator asks after the expiry
            elif self._local is not None and self._local.is_committed:
                await self._confirm_despite(error)
            elif isinstance(error, TransactionCancelled) and error.outcome.gid == self.gid:
                self.outcome = error.outcome
            else:
                self.outcome = await self._cancel_because_of(error)
        except BaseException as failure:
            self._end_span(failure)
            raise
        finally:
            self._connection.interactive.discard(self.gid)
        self._end_span(error)

    async def _confirm_despite(self, error: BaseException) -> None:
        """Confirm, because the local change is committed, although the block raised."""
        try:
            await self.confirm()
        except TccError as failure:
            # The caller must see its own error; the coordinator confirms in any case.
            error.add_note(f"transaction {self.gid} could not be confirmed at once: {failure}")

    def note_local(self, *, is_open: bool) -> None:
        """Note that the block of the local branch has begun, or has ended."""
        if is_open:
            self._connection.open_locals.add(self.gid)
        else:
            self._connection.open_locals.discard(self.gid)

    async def end_try(self, branch_id: str, error: BaseException | None) -> None:
        """Note how the caller's own Try of a registered branch ended; `confirm` then decides."""
        self.note_try(branch_id, error)

    def enter(self) -> None:
        """Make its context, and its span if any, the current one. Entering the block does this.

        From now on, closing the client cancels the transaction. One that is begun without a block
        stays: another process may decide it.
        """
        self._connection.interactive.add(self.gid)
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


def _digest(spec: common.BranchSpec) -> bytes:
    return sha256(spec.SerializeToString(deterministic=True)).digest()


async def confirm(
    connection: Connection,
    gid: str,
    wait_for: WaitFor,
    timeout_s: float | None,
    *,
    messages: Sequence[common.BranchSpec] = (),
) -> Outcome:
    """Request the decision CONFIRM. Raises TransactionCancelled if the decision is CANCEL."""
    gid = arguments.gid(gid)
    _check_local_ended(connection, gid)
    request = pb.ConfirmTransactionRequest(gid=gid, wait_for=wait_for_number(wait_for), messages=messages)
    try:
        response = await connection.call(lambda stub: stub.ConfirmTransaction, request, timeout_s)
    except (AlreadyDecided, DecisionConflict) as error:
        await raise_if_cancelled(connection, gid, error)
        raise
    return checked(outcome_of(response.outcome, connection.payload_codec))


async def cancel(
    connection: Connection, gid: str, reason: str, wait_for: WaitFor, timeout_s: float | None
) -> Outcome:
    """Request the decision CANCEL. Raises DecisionConflict if the decision is CONFIRM."""
    arguments.instance("reason", reason, str, 'reason="fraud"')
    request = pb.CancelTransactionRequest(
        gid=arguments.gid(gid),
        # A text for people: what cannot be sent or shown must not keep a transaction from being cancelled.
        reason=plain_text(reason, _REASON_CHARACTERS_MAX),
        wait_for=wait_for_number(wait_for),
    )
    response = await connection.call(lambda stub: stub.CancelTransaction, request, timeout_s)
    return outcome_of(response.outcome, connection.payload_codec)


def _check_local_ended(connection: Connection, gid: str) -> None:
    if gid in connection.open_locals:
        raise PreconditionFailed(
            "the block of the local branch has not ended: leave it, or raise an exception in it",
            reason="LOCAL_BRANCH_OPEN",
        )


def checked(outcome: Outcome) -> Outcome:
    """Return the outcome. Raises TransactionCancelled if the decision is CANCEL."""
    if outcome.cancelled:
        raise error_from_outcome(outcome)
    return outcome


async def raise_if_cancelled(connection: Connection, gid: str, error: PreconditionFailed) -> None:
    """Raise TransactionCancelled if a failed precondition means that the transaction was cancelled."""
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
    return plain_text(f"{type(error).__name__}: {message_of(error)}", _REASON_CHARACTERS_MAX)


def _milliseconds(moment: Timestamp) -> int:
    return moment.seconds * 1000 + moment.nanos // 1_000_000
