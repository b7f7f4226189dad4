"""A coordinator for the tests of an initiator: in this process, without a network or a database.

    async def test_sold_out():
        fake = FakeCoordinator()
        fake.on("inventory", "reserve_stock").rejects("SOLD_OUT")
        async with tcc.Client(fake) as client:  # or tcc.SyncClient(fake)
            assert await buy(client, "order-17") == "sorry"
        assert fake.transaction("order-17").state is TransactionState.CANCELLED

Every Try succeeds unless `on` determines otherwise. Confirms and Cancels succeed. The fake decides
as the coordinator does, and refuses what it refuses; one suite of tests holds both to the same
behaviour. It differs in time: nothing waits. A Try that is never answered lets its transaction
expire at once, and the decision is carried out as soon as it is made; a message is delivered then,
whatever its `not_before`. The Check of a local branch finds nothing, unless
`on(participant, "local")` determines otherwise.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tcc import payload as payloads
from tcc._internal.uuid7 import uuid7
from tcc.branch import Rejected
from tcc.client.outcome import TransactionRecord, record_of
from tcc.common.v1 import common_pb2 as common
from tcc.errors import error_from_rpc
from tcc.transaction.v1 import transaction_pb2 as pb

T = TypeVar("T")

EXPIRY_DEFAULT_S = 30.0
_CONFIRMED = frozenset({common.TRANSACTION_STATE_CONFIRMING, common.TRANSACTION_STATE_CONFIRMED})
_CANCELLED = frozenset({common.TRANSACTION_STATE_CANCELLING, common.TRANSACTION_STATE_CANCELLED})


class Operation(Enum):
    """The calls of a branch."""

    TRY = "TRY"
    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"
    CHECK = "CHECK"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call that a participant would have got."""

    gid: str
    branch_id: str
    participant: str
    action: str
    operation: Operation
    payload: bytes
    content_type: str

    def json(self) -> Any:
        """Return the payload decoded as JSON. Raises InvalidPayloadError, a ValueError, if it is not JSON."""
        return payloads.decode_json(self.payload)

    def as_(self, kind: type[T]) -> T:
        """Return the payload decoded as `kind` (see tcc.payload). Raises InvalidPayloadError."""
        return payloads.decode(kind, self.payload, self.content_type)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """The answer to a Try. FAILED: permanently. TRYING: none before the expiry."""

    state: common.BranchState
    reason: str = ""
    message: str = ""
    result: bytes = b""
    content_type: str = ""


class Action:
    """The behaviour of an action's Try, or of a local branch's Check. From `on`; the latest word counts."""

    def __init__(self) -> None:
        self._answer: Callable[[Call], _Answer] = lambda _call: _succeeded(None)

    def returns(self, result: object = None) -> None:
        """Let Trys succeed with this result: what a handler may return (see tcc.payload)."""
        answer = _succeeded(result)
        self._answer = lambda _call: answer

    def rejects(self, reason: str, message: str = "") -> None:
        """Reject Trys. The transaction is cancelled: CancelReason.REJECTED."""
        answer = _Answer(state=common.BRANCH_STATE_REJECTED, reason=reason, message=message)
        self._answer = lambda _call: answer

    def fails(self, reason: str = "HANDLER_ERROR", message: str = "") -> None:
        """Let Trys fail permanently. The transaction is cancelled: CancelReason.TRY_FAILED."""
        answer = _Answer(state=common.BRANCH_STATE_FAILED, reason=reason, message=message)
        self._answer = lambda _call: answer

    def times_out(self, reason: str = "", message: str = "") -> None:
        """Let the transaction expire. With a reason, the Try failed with it until then (TryTimedOut)."""
        answer = _Answer(state=common.BRANCH_STATE_TRYING, reason=reason, message=message)
        self._answer = lambda _call: answer

    def calls(self, function: Callable[[Call], object]) -> None:
        """Compute each Try: the function's value is the result; `raise tcc.Rejected(...)` rejects."""

        def answer(call: Call) -> _Answer:
            try:
                return _succeeded(function(call))
            except Rejected as rejected:
                return _Answer(
                    state=common.BRANCH_STATE_REJECTED, reason=rejected.reason, message=rejected.message
                )

        self._answer = answer

    def answer(self, call: Call) -> _Answer:
        return self._answer(call)


@dataclass(kw_only=True, slots=True)
class _Transaction:
    """A transaction: its row as the contract shows it, and what its repetitions are compared with."""

    row: common.Transaction
    content: object
    # The answers to Trys, by branch id.
    answers: dict[str, _Answer] = field(default_factory=dict)
    waiters: list[Callable[[], object]] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        return self.row.state != common.TRANSACTION_STATE_TRYING


class FakeCoordinator:
    """Stands in for a coordinator. Pass it to `tcc.Client` or `tcc.SyncClient` instead of an address.

    Args:
        participants: The names of the participants that it knows; a branch at another one is refused
            with UnknownParticipant. None: it knows all.
    """

    def __init__(self, participants: Iterable[str] | None = None) -> None:
        self._participants = None if participants is None else frozenset(participants)
        self._actions: dict[tuple[str, str], Action] = {}
        self._transactions: dict[str, _Transaction] = {}
        self._calls: list[Call] = []
        self._lost = 0
        self._unavailable = False
        # Clients of several threads may share it.
        self._lock = threading.RLock()

    # --- what a test determines ---------------------------------------------

    def on(self, participant: str, action: str) -> Action:
        """Return the behaviour of this action, to change it. Raises ValueError for an unknown participant."""
        if self._participants is not None and participant not in self._participants:
            raise ValueError(f"there is no participant {participant!r} in this FakeCoordinator")
        return self._actions.setdefault((participant, action), Action())

    def lose_responses(self, count: int = 1) -> None:
        """Let the next calls take effect, but raise DeadlineExceeded: the outcome is unknown."""
        self._lost = count

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """Refuse all calls within the block: Unavailable, once the caller's timeout has passed."""
        self._unavailable = True
        try:
            yield
        finally:
            self._unavailable = False

    def expire(self, gid: str) -> None:
        """Let an undecided transaction expire now. Raises KeyError if there is none with this gid."""
        with self._lock:
            found = self._transactions[gid]
            if not found.decided:
                self._expire(found)

    # --- what a test observes -----------------------------------------------

    @property
    def calls(self) -> list[Call]:
        """The calls that participants would have got, in order."""
        return list(self._calls)

    @property
    def transactions(self) -> list[TransactionRecord]:
        """All transactions, in the order of their begin."""
        with self._lock:
            return [record_of(found.row) for found in self._transactions.values()]

    def transaction(self, gid: str) -> TransactionRecord:
        """Return a transaction with its branches and payloads. Raises KeyError if there is none."""
        with self._lock:
            return record_of(self._transactions[gid].row)

    def open_channel(self) -> "FakeChannel":
        """Return what a client calls in place of gRPC's channel."""
        return FakeChannel(self)

    # --- TransactionService -------------------------------------------------

    def execute(self, request: pb.ExecuteTransactionRequest) -> pb.TransactionOutcome:
        with self._lock:
            if not request.branches:
                _refuse("NO_BRANCHES", "a transaction requires at least one branch")
            specs = list(request.branches)
            for spec in specs:
                self._check_branch(spec)
            _check_distinct(specs)
            known = self._transactions.get(request.gid)
            begun = self._begin(request, specs, interactive=False)
            if known is None:
                self._try_stages(begun)
            return _outcome(begun)

    def begin(self, request: pb.BeginTransactionRequest) -> pb.BeginTransactionResponse:
        with self._lock:
            begun = self._begin(request, [], interactive=True)
            return pb.BeginTransactionResponse(gid=begun.row.gid, expires_at=begun.row.expires_at)

    def try_branch(self, request: pb.TryBranchRequest) -> pb.TryBranchResponse:
        with self._lock:
            found, branch = self._join(request.gid, request.branch, tried_by_initiator=False)
            answer = found.answers.get(branch.spec.branch_id)
            if answer is None and not found.decided:
                answer = self._try(found, branch)
            if answer is None or answer.state == common.BRANCH_STATE_TRYING:
                _raise_decided(found)
            return pb.TryBranchResponse(
                state=answer.state,
                reason=answer.reason,
                message=answer.message,
                result=answer.result,
                result_content_type=answer.content_type,
            )

    def register(self, request: pb.RegisterBranchRequest) -> pb.RegisterBranchResponse:
        with self._lock:
            spec, messages = request.branch, list(request.messages)
            if request.check_back:
                found = self._register_check_back(request.gid, spec, messages)
            elif messages:
                _refuse("INVALID_MESSAGES", "messages come with a branch with check_back")
            else:
                found, _branch = self._join(request.gid, spec, tried_by_initiator=True)
            if found.decided:  # its Try must not be performed any more
                _raise_decided(found)
            return pb.RegisterBranchResponse(expires_at=found.row.expires_at)

    def confirm(self, request: pb.ConfirmTransactionRequest) -> pb.TransactionOutcome:
        with self._lock:
            found = self._find(request.gid)
            if found.row.state in _CANCELLED:
                _raise_conflict(found)
            self._add_messages(found, list(request.messages))
            if not found.decided:
                self._decide(found, Operation.CONFIRM)
            return _outcome(found)

    def cancel(self, request: pb.CancelTransactionRequest) -> pb.TransactionOutcome:
        with self._lock:
            found = self._find(request.gid)
            if not found.decided:
                self._cancel_requested(found, request.reason)
            if found.row.state in _CONFIRMED:
                _raise_conflict(found)
            return _outcome(found)

    def get(self, request: pb.GetTransactionRequest) -> pb.GetTransactionResponse:
        with self._lock:
            return pb.GetTransactionResponse(transaction=self._find(request.gid).row)

    def list(self, request: pb.ListTransactionsRequest) -> pb.ListTransactionsResponse:
        """Return one page. The page token is the number of transactions that are newer."""
        with self._lock:
            newest_first = [found.row for found in reversed(self._transactions.values())]
        matching = [row for row in newest_first if _matches(row, request)]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        return pb.ListTransactionsResponse(
            transactions=[_without_payloads(row) for row in matching[start:end]],
            next_page_token=str(end) if end < len(matching) else "",
        )

    async def wait(self, request: pb.WaitTransactionRequest) -> pb.TransactionOutcome:
        decided = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self._find(request.gid)
            if found.decided or request.wait_for == pb.WAIT_FOR_ACCEPTED:
                return _outcome(found)
            found.waiters.append(lambda: loop.call_soon_threadsafe(decided.set))
        await decided.wait()
        with self._lock:
            return _outcome(found)

    def check_available(self) -> None:
        """Raise what a caller gets from a coordinator that is unavailable."""
        if self._unavailable:
            _refuse("UNAVAILABLE", "the coordinator is unavailable", code=grpc.StatusCode.UNAVAILABLE)

    def lose_response(self) -> None:
        """Raise, if this response is to be lost."""
        if self._lost:
            self._lost -= 1
            raise _rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    # --- the rules ----------------------------------------------------------

    def _begin(
        self,
        request: pb.ExecuteTransactionRequest | pb.BeginTransactionRequest,
        specs: Sequence[common.BranchSpec],
        *,
        interactive: bool,
    ) -> _Transaction:
        """Return the transaction of the request: a new one, or the same one again.

        `interactive` is part of the content: a whole transaction is none that is begun.
        """
        gid = request.gid or uuid7()
        _check_id("GID", "gid", gid)
        content = ([_content(spec) for spec in specs], dict(request.labels), interactive)
        known = self._transactions.get(gid)
        if known is not None:
            if known.content != content:
                _refuse(
                    "GID_CONFLICT",
                    f"gid {gid!r} belongs to a transaction with different content: "
                    "branches, payloads, stages, not_before or labels differ",
                    code=grpc.StatusCode.ALREADY_EXISTS,
                )
            return known
        now = datetime.now(UTC)
        expiry = request.expiry.ToTimedelta() if request.HasField("expiry") else None
        row = common.Transaction(
            gid=gid,
            state=common.TRANSACTION_STATE_TRYING,
            initiator=request.initiator,
            labels=request.labels,
            version=1,
            branches=[common.Branch(spec=spec, state=_FIRST_STATES[spec.kind]) for spec in specs],
        )
        row.created_at.FromDatetime(now)
        row.expires_at.FromDatetime(now + (expiry or timedelta(seconds=EXPIRY_DEFAULT_S)))
        begun = self._transactions[gid] = _Transaction(row=row, content=content)
        return begun

    def _join(
        self, gid: str, spec: common.BranchSpec, *, tried_by_initiator: bool
    ) -> tuple[_Transaction, common.Branch]:
        """Return the transaction with a branch that has a Try: a new one, or the same one again."""
        found = self._find(gid)
        self._check_branch(spec)
        if spec.kind == common.BRANCH_KIND_MESSAGE:
            _refuse(
                "INVALID_KIND",
                "a message comes with ConfirmTransaction, or with a branch with check_back",
            )
        return found, self._add(found, spec, tried_by_initiator=tried_by_initiator)

    def _add(
        self,
        found: _Transaction,
        spec: common.BranchSpec,
        *,
        tried_by_initiator: bool = False,
        check_back: bool = False,
    ) -> common.Branch:
        for branch in found.row.branches:
            if branch.spec.branch_id == spec.branch_id:
                if _content(branch.spec) != _content(spec) or (
                    (branch.tried_by_initiator, branch.check_back) != (tried_by_initiator, check_back)
                ):
                    _refuse(
                        "BRANCH_CONFLICT",
                        f"branch {spec.branch_id!r} exists with different content",
                        code=grpc.StatusCode.ALREADY_EXISTS,
                    )
                return branch
        if found.decided:
            _raise_decided(found)
        if _check_back(found) is not None:
            _refuse(
                "CHECK_BACK_EXISTS",
                f"transaction {found.row.gid!r} has a branch with check_back; none joins after it",
                code=grpc.StatusCode.FAILED_PRECONDITION,
            )
        return found.row.branches.add(
            spec=spec,
            state=_FIRST_STATES[spec.kind],
            tried_by_initiator=tried_by_initiator,
            check_back=check_back,
        )

    def _add_messages(self, found: _Transaction, messages: Sequence[common.BranchSpec]) -> None:
        for spec in messages:
            self._check_branch(spec)
            if spec.kind != common.BRANCH_KIND_MESSAGE:
                _refuse("INVALID_KIND", "each of `messages` must be of kind MESSAGE")
        _check_distinct(messages)
        for spec in messages:
            self._add(found, spec)

    def _register_check_back(
        self, gid: str, spec: common.BranchSpec, messages: Sequence[common.BranchSpec]
    ) -> _Transaction:
        found = self._find(gid)
        self._check_branch(spec)
        if spec.kind not in (common.BRANCH_KIND_UNSPECIFIED, common.BRANCH_KIND_SAGA):
            _refuse("INVALID_KIND", "the kind of a branch with check_back is SAGA")
        branch_ids = {branch.spec.branch_id for branch in found.row.branches}
        if spec.branch_id not in branch_ids:
            for branch in found.row.branches:
                if branch.state == common.BRANCH_STATE_TRYING and not branch.tried_by_initiator:
                    _refuse(
                        "TRY_PENDING",
                        f"the Try of branch {branch.spec.branch_id!r} has not succeeded",
                        code=grpc.StatusCode.FAILED_PRECONDITION,
                    )
            self._add_messages(found, messages)
            # The initiator vouches for its own Trys.
            for branch in found.row.branches:
                if branch.state == common.BRANCH_STATE_TRYING:
                    branch.state = common.BRANCH_STATE_TRIED
        own = common.BranchSpec()
        own.CopyFrom(spec)
        own.kind = common.BRANCH_KIND_SAGA
        self._add(found, own, tried_by_initiator=True, check_back=True)
        return found

    def _cancel_requested(self, found: _Transaction, detail: str) -> None:
        """Cancel, unless the local branch has committed: then confirm."""
        local = _check_back(found)
        checked = None if local is None else self._check_local(found, local)
        if checked == common.BRANCH_STATE_TRIED:
            self._decide(found, Operation.CONFIRM)
        elif checked in (None, common.BRANCH_STATE_REJECTED):
            self._cancel(found, common.CANCEL_REASON_REQUESTED, detail=detail)
        else:
            _refuse(
                "CHECK_UNANSWERED",
                f"the local branch of transaction {found.row.gid!r} has not answered",
                code=grpc.StatusCode.UNAVAILABLE,
            )

    def _expire(self, found: _Transaction) -> None:
        """Cancel, or let the local branch decide. If it does not answer, nothing is decided."""
        local = _check_back(found)
        if local is None:
            self._cancel(found, common.CANCEL_REASON_EXPIRED)
            return
        checked = self._check_local(found, local)
        if checked == common.BRANCH_STATE_TRIED:
            self._decide(found, Operation.CONFIRM)
        elif checked == common.BRANCH_STATE_REJECTED:
            self._cancel(
                found,
                common.CANCEL_REASON_EXPIRED,
                branch_id=local.spec.branch_id,
                detail="NOT_TRIED",
            )

    def _check_local(self, found: _Transaction, local: common.Branch) -> common.BranchState:
        """Call the Check of a local branch. Return TRIED, REJECTED, or another state: no answer."""
        call = self._call(found, local, Operation.CHECK)
        action = self._actions.get((call.participant, call.action))
        return common.BRANCH_STATE_REJECTED if action is None else action.answer(call).state

    def _try_stages(self, begun: _Transaction) -> None:
        tried = [branch for branch in begun.row.branches if _has_call(branch, Operation.TRY)]
        for stage in sorted({branch.spec.stage for branch in tried}):
            for branch in tried:
                if branch.spec.stage == stage and not begun.decided:
                    self._try(begun, branch)
        if not begun.decided:
            self._decide(begun, Operation.CONFIRM)

    def _try(self, found: _Transaction, branch: common.Branch) -> _Answer:
        """Call the Try of a branch. If it does not succeed, the transaction is cancelled."""
        call = self._call(found, branch, Operation.TRY)
        action = self._actions.get((call.participant, call.action), _SUCCEEDS)
        answer = action.answer(call)
        found.answers[call.branch_id] = answer
        branch.state = answer.state
        branch.result, branch.result_content_type = answer.result, answer.content_type
        if answer.state != common.BRANCH_STATE_TRIED:
            branch.last_error = f"{answer.reason}: {answer.message}" if answer.message else answer.reason
            self._cancel(
                found,
                _CANCEL_REASONS[answer.state],
                branch_id=branch.spec.branch_id if answer.reason else "",
                detail=answer.reason,
                message=answer.message,
            )
        return answer

    def _cancel(
        self,
        found: _Transaction,
        reason: common.CancelReason,
        *,
        branch_id: str = "",
        detail: str = "",
        message: str = "",
    ) -> None:
        found.row.cancel_reason = reason
        found.row.cancel_branch_id = branch_id
        found.row.cancel_detail, found.row.cancel_message = detail, message
        self._decide(found, Operation.CANCEL)

    def _decide(self, found: _Transaction, decision: Operation) -> None:
        """Decide, and carry the decision out at every branch."""
        row = found.row
        confirm = decision is Operation.CONFIRM
        row.state = common.TRANSACTION_STATE_CONFIRMED if confirm else common.TRANSACTION_STATE_CANCELLED
        row.version += 2
        for moment in (row.decided_at, row.ended_at):
            moment.FromDatetime(datetime.now(UTC))
        for branch in sorted(row.branches, key=_latest_saga_first):
            if _has_call(branch, decision):
                self._call(found, branch, decision)
            branch.state = common.BRANCH_STATE_CONFIRMED if confirm else common.BRANCH_STATE_CANCELLED
        for notify in found.waiters:
            notify()

    def _call(self, found: _Transaction, branch: common.Branch, operation: Operation) -> Call:
        spec = branch.spec
        call = Call(
            gid=found.row.gid,
            branch_id=spec.branch_id,
            participant=spec.participant,
            action=spec.action,
            operation=operation,
            payload=spec.payload,
            content_type=spec.content_type,
        )
        self._calls.append(call)
        return call

    def _find(self, gid: str) -> _Transaction:
        _check_id("GID", "gid", gid)
        found = self._transactions.get(gid)
        if found is None:
            _refuse(
                "TRANSACTION_NOT_FOUND",
                f"there is no transaction {gid!r}",
                code=grpc.StatusCode.NOT_FOUND,
            )
        return found

    def _check_branch(self, spec: common.BranchSpec) -> None:
        _check_id("BRANCH_ID", "branch_id", spec.branch_id)
        _check_id("PARTICIPANT", "participant", spec.participant)
        _check_id("ACTION", "action", spec.action)
        if spec.kind not in _FIRST_STATES:
            _refuse("INVALID_KIND", f"unknown kind {spec.kind}")
        is_message = spec.kind == common.BRANCH_KIND_MESSAGE
        if is_message and spec.stage:
            _refuse("INVALID_STAGE", "the stage of a message is 0: it follows the decision")
        if spec.HasField("not_before") and not is_message:
            _refuse("INVALID_NOT_BEFORE", "only a message has a time before which it is not called")
        if self._participants is not None and spec.participant not in self._participants:
            _refuse("UNKNOWN_PARTICIPANT", f"there is no participant {spec.participant!r}")


class FakeChannel:
    """A channel whose calls a FakeCoordinator answers. The methods are named as in the contract."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake
        self.ExecuteTransaction = self._unary(
            lambda request: pb.ExecuteTransactionResponse(outcome=fake.execute(request))
        )
        self.BeginTransaction = self._unary(fake.begin)
        self.TryBranch = self._unary(fake.try_branch)
        self.RegisterBranch = self._unary(fake.register)
        self.ConfirmTransaction = self._unary(
            lambda request: pb.ConfirmTransactionResponse(outcome=fake.confirm(request))
        )
        self.CancelTransaction = self._unary(
            lambda request: pb.CancelTransactionResponse(outcome=fake.cancel(request))
        )
        self.GetTransaction = self._unary(fake.get)
        self.ListTransactions = self._unary(fake.list)

    def unary_unary(self, path: str, **_options: object) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self, path.rpartition("/")[2])
        return method

    unary_stream = unary_unary

    def stream_stream(self, path: str, **_options: object) -> None:
        """Return no method: clients send their transactions to a stand-in by calls."""

    async def close(self, grace: float | None) -> None:
        """Do nothing: it holds nothing."""

    def _unary(self, method: Callable[[Any], Any]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, *, timeout: float) -> Any:  # noqa: ARG001, ASYNC109 - nothing takes time
            self._fake.check_available()
            response = method(request)
            self._fake.lose_response()
            return response

        return call

    async def ExecuteTransactions(  # noqa: N802 - the name in the contract
        self,
        request: pb.ExecuteTransactionsRequest,
        *,
        timeout: float,  # noqa: ARG002, ASYNC109 - nothing takes time
    ) -> AsyncIterator[pb.ExecuteTransactionsResponse]:
        self._fake.check_available()
        for index, item in enumerate(request.transactions):
            reply = pb.ExecuteTransactionsReply(index=index)
            try:
                reply.outcome.CopyFrom(self._fake.execute(item))
            except grpc.aio.AioRpcError as error:
                reply.error.CopyFrom(_error_of(error))
            self._fake.lose_response()
            yield pb.ExecuteTransactionsResponse(replies=[reply])

    async def WaitTransaction(  # noqa: N802 - the name in the contract
        self,
        request: pb.WaitTransactionRequest,
        *,
        timeout: float,  # noqa: ASYNC109 - as the stub's
    ) -> pb.WaitTransactionResponse:
        self._fake.check_available()
        try:
            async with asyncio.timeout(timeout):
                outcome = await self._fake.wait(request)
        except TimeoutError:
            raise _rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        return pb.WaitTransactionResponse(outcome=outcome)


_CANCEL_REASONS: Mapping[int, common.CancelReason] = {
    common.BRANCH_STATE_REJECTED: common.CANCEL_REASON_REJECTED,
    common.BRANCH_STATE_FAILED: common.CANCEL_REASON_TRY_FAILED,
    common.BRANCH_STATE_TRYING: common.CANCEL_REASON_EXPIRED,
}
_SUCCEEDS = Action()
# By kind: the state of a branch before its first call.
_FIRST_STATES: Mapping[int, common.BranchState] = {
    common.BRANCH_KIND_UNSPECIFIED: common.BRANCH_STATE_TRYING,
    common.BRANCH_KIND_TCC: common.BRANCH_STATE_TRYING,
    common.BRANCH_KIND_SAGA: common.BRANCH_STATE_TRYING,
    common.BRANCH_KIND_MESSAGE: common.BRANCH_STATE_PENDING,
}
_ID_BYTES_MAX = 128


def _succeeded(result: object) -> _Answer:
    data, content_type = (b"", "") if result is None else payloads.encode(result)
    return _Answer(state=common.BRANCH_STATE_TRIED, result=data, content_type=content_type)


def _content(spec: common.BranchSpec) -> tuple[object, ...]:
    return (
        spec.branch_id,
        spec.participant,
        spec.action,
        spec.payload,
        spec.content_type,
        spec.stage,
        spec.kind or common.BRANCH_KIND_TCC,
        spec.not_before.ToNanoseconds() if spec.HasField("not_before") else None,
    )


def _has_call(branch: common.Branch, operation: Operation) -> bool:
    """Return whether a branch of this kind has the call."""
    if branch.check_back:
        return False
    match branch.spec.kind:
        case common.BRANCH_KIND_SAGA:
            return operation is not Operation.CONFIRM
        case common.BRANCH_KIND_MESSAGE:
            return operation is Operation.CONFIRM
    return True


def _latest_saga_first(branch: common.Branch) -> int:
    return -branch.spec.stage if branch.spec.kind == common.BRANCH_KIND_SAGA else 0


def _check_back(found: _Transaction) -> common.Branch | None:
    """Return the local branch of a transaction."""
    return next((branch for branch in found.row.branches if branch.check_back), None)


def _check_distinct(specs: Sequence[common.BranchSpec]) -> None:
    if len({spec.branch_id for spec in specs}) < len(specs):
        _refuse("DUPLICATE_BRANCH_ID", "branch ids must differ within a transaction")


def _outcome(found: _Transaction) -> pb.TransactionOutcome:
    row = found.row
    return pb.TransactionOutcome(
        gid=row.gid,
        state=row.state,
        cancel_reason=row.cancel_reason,
        cancel_branch_id=row.cancel_branch_id,
        cancel_detail=row.cancel_detail,
        cancel_message=row.cancel_message,
        results=[
            pb.BranchResult(
                branch_id=branch.spec.branch_id,
                result=branch.result,
                content_type=branch.result_content_type,
            )
            for branch in row.branches
            if branch.result or branch.result_content_type
        ],
    )


def _matches(row: common.Transaction, request: pb.ListTransactionsRequest) -> bool:
    created = row.created_at.ToDatetime()
    return (
        (not request.states or row.state in request.states)
        and (not request.participant or request.participant in {b.spec.participant for b in row.branches})
        and all(row.labels.get(key) == value for key, value in request.labels.items())
        and (not request.initiator or row.initiator == request.initiator)
        and (not request.stuck or row.stuck)
        and (not request.HasField("created_after") or created > request.created_after.ToDatetime())
        and (not request.HasField("created_before") or created < request.created_before.ToDatetime())
    )


def _without_payloads(row: common.Transaction) -> common.Transaction:
    listed = common.Transaction()
    listed.CopyFrom(row)
    for branch in listed.branches:
        branch.spec.ClearField("payload")
        branch.ClearField("result")
    return listed


def _check_id(reason: str, name: str, value: str) -> None:
    if not value:
        _refuse(f"INVALID_{reason}", f"{name} must not be empty")
    if len(value.encode()) > _ID_BYTES_MAX:
        _refuse(f"INVALID_{reason}", f"{name} may have at most {_ID_BYTES_MAX} bytes of UTF-8")
    if not value.isprintable():
        _refuse(f"INVALID_{reason}", f"{name} contains a character that is not printable")


def _raise_decided(found: _Transaction) -> NoReturn:
    _refuse(
        "ALREADY_DECIDED",
        f"transaction {found.row.gid!r} is decided",
        code=grpc.StatusCode.FAILED_PRECONDITION,
    )


def _raise_conflict(found: _Transaction) -> NoReturn:
    _refuse(
        "DECISION_CONFLICT",
        f"transaction {found.row.gid!r} has the other decision",
        code=grpc.StatusCode.FAILED_PRECONDITION,
    )


def _refuse(
    reason: str, message: str, *, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
) -> NoReturn:
    raise _rpc_error(code, message, reason)


def _rpc_error(code: grpc.StatusCode, message: str, reason: str = "") -> grpc.aio.AioRpcError:
    """Return the error that a stub raises for this status."""
    details: list[AnyMessage] = []
    if reason:
        details.append(AnyMessage())
        details[0].Pack(ErrorInfo(reason=reason, domain="tcc"))
    status = rpc_status.to_status(Status(code=code.value[0], message=message, details=details))
    return grpc.aio.AioRpcError(
        code,
        initial_metadata=grpc.aio.Metadata(),
        trailing_metadata=grpc.aio.Metadata(*status.trailing_metadata),
        details=message,
        debug_error_string="",
    )


def _error_of(error: grpc.aio.AioRpcError) -> common.Error:
    """Return the error of one item of a batch."""
    found = error_from_rpc(error)
    return common.Error(code=error.code().value[0], reason=found.reason, message=found.message)
