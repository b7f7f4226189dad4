"""What an initiator has to expect: one tree of errors, and one table that leads into it.

A call's status with its google.rpc.ErrorInfo and google.rpc.RetryInfo, and the
`Error` of one item of a batch, say the same thing in two ways. Both are read into
code, reason, message, metadata and retry hint, and one table makes the error.
"""

# ruff: noqa: N818 - they name what happened, as the rest of the vocabulary does

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from tcc.common.v1 import common_pb2 as common

if TYPE_CHECKING:
    from tcc.client.outcome import CancelReason, Outcome


class TccError(Exception):
    """The root of the tree: catch it to catch everything that this client raises.

    - `code`: the canonical gRPC status code.
    - `reason`: the stable UPPER_SNAKE word that programs compare.
    - `message`: for people.
    - `metadata`: further facts, by name.
    - `retry_after_s`: how long the coordinator asks to wait before a repetition; 0 without a hint.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        code: grpc.StatusCode | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        self.message = message
        self.reason = reason or self.default_reason
        self.code = code or self.default_code
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


class InvalidRequest(TccError):
    """The request itself is wrong; `reason` says what about it. Nothing was written."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"


class UnknownParticipant(InvalidRequest):
    """The coordinator is not configured with a participant that a branch names."""

    default_reason = "UNKNOWN_PARTICIPANT"


class NotFound(TccError):
    """The log holds no such transaction (any more)."""

    default_code = grpc.StatusCode.NOT_FOUND
    default_reason = "TRANSACTION_NOT_FOUND"


class Conflict(TccError):
    """An id is taken by something else."""

    default_code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "CONFLICT"


class GidConflict(Conflict):
    """The gid belongs to a transaction with different content."""

    default_reason = "GID_CONFLICT"


class BranchConflict(Conflict):
    """The branch id belongs to a branch of this transaction with different content."""

    default_reason = "BRANCH_CONFLICT"


class PreconditionFailed(TccError):
    """The transaction does not stand in a way that allows the request."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "REFUSED"


class DecisionConflict(PreconditionFailed):
    """The other decision was taken, and a decision never changes."""

    default_reason = "DECISION_CONFLICT"


class AlreadyDecided(PreconditionFailed):
    """No branch joins after the decision, nor after CONFIRM was asked for."""

    default_reason = "ALREADY_DECIDED"


class NotInteractive(PreconditionFailed):
    """A transaction begun by `execute` takes no steps from outside."""

    default_reason = "NOT_INTERACTIVE"


class ResourceExhausted(TccError):
    """The coordinator is at a bound, or a message is too large. Nothing was written."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(TccError):
    """No coordinator could be reached, or it accepts nothing now, until the caller's time was up.

    Whether an earlier attempt took effect is not known: repeat with the same gid, or `get` it.
    """

    default_code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(TccError):
    """The caller's time was up while the coordinator worked.

    The transaction goes on without the caller: repeat with the same gid, `wait` for it or `get` it.
    Where the coordinator knows a branch that keeps failing, the message says so and `metadata` has
    its `branch_id` and `last_error`.
    """

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class PermissionDenied(TccError):
    """Who asks is not known, or may not."""

    default_code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class InternalError(TccError):
    """The coordinator failed in a way that is its own fault."""

    default_code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


class ClientClosed(TccError):
    """The client was closed before the answer came. The transaction, if begun, goes on without it."""

    default_code = grpc.StatusCode.CANCELLED
    default_reason = "CLIENT_CLOSED"


class TransactionCancelled(TccError):
    """The transaction's decision is CANCEL: nothing of it stays.

    - `cancel_reason`: why, as a `CancelReason`; its name is `reason`, too.
    - `cancel_branch_id`: the branch whose Try caused it; empty if none did.
    - `detail`: the participant's stable reason (`SOLD_OUT`), or the initiator's words.
    - `cancel_message`: what the participant said beside its reason ("only 2 left"), for people.
    - `message`: all of this in one line.
    - `outcome`: the whole `Outcome`.
    """

    default_code = grpc.StatusCode.ABORTED
    default_reason = "TRANSACTION_CANCELLED"

    def __init__(self, outcome: "Outcome") -> None:
        self.outcome = outcome
        self.cancel_reason: CancelReason = outcome.cancel_reason
        self.cancel_branch_id = outcome.cancel_branch_id
        self.detail = outcome.cancel_detail
        self.cancel_message = outcome.cancel_message
        super().__init__(
            self._text(outcome),
            reason=outcome.cancel_reason.name,
            metadata={"gid": outcome.gid},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are copied and pickled by their `args`, which hold the message only.
        return type(self), (self.outcome,), self.__dict__

    @staticmethod
    def _text(outcome: "Outcome") -> str:
        words = [f"transaction {outcome.gid} was cancelled"]
        if outcome.cancel_branch_id:
            words.append(f"by branch {outcome.cancel_branch_id}")
        if outcome.cancel_detail:
            words.append(f"({outcome.cancel_detail})")
        text = " ".join(words)
        return f"{text}: {outcome.cancel_message}" if outcome.cancel_message else text


class TryTimedOut(TransactionCancelled):
    """The transaction's time was up while a Try kept failing. `cancel_reason` is EXPIRED.

    - `cancel_branch_id`: the branch whose Try it was.
    - `detail` and `cancel_message`: the reason and the message of its last error.
    """

    @staticmethod
    def _text(outcome: "Outcome") -> str:
        last_error = " ".join(filter(None, (outcome.cancel_detail, outcome.cancel_message)))
        return (
            f"transaction {outcome.gid} was cancelled: its time was up while a Try kept failing; "
            f"branch {outcome.cancel_branch_id}: {last_error}"
        )


def error_from_outcome(outcome: "Outcome") -> TransactionCancelled:
    """Return the error of a transaction that was cancelled."""
    timed_out = outcome.cancel_reason.name == "EXPIRED" and outcome.cancel_branch_id
    return TryTimedOut(outcome) if timed_out else TransactionCancelled(outcome)


def error_from_rpc(error: grpc.RpcError) -> TccError:
    """Return the error of a call that ended with a status other than OK.

    `error` is an AioRpcError, or the error of a sync call; both are calls themselves.
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    info, hint = ErrorInfo(), RetryInfo()
    # Details that cannot be read must not hide the status.
    with contextlib.suppress(DecodeError):
        for detail in _details_of(error):
            if detail.Is(ErrorInfo.DESCRIPTOR):
                detail.Unpack(info)
            elif detail.Is(RetryInfo.DESCRIPTOR):
                detail.Unpack(hint)
    retry_after_s = hint.retry_delay.seconds + hint.retry_delay.nanos / 1e9
    return _error(
        _Facts(error.code(), info.reason, error.details() or "", dict(info.metadata), retry_after_s)
    )


def error_from_reply(error: common.Error) -> TccError:
    """Return the error of one item of a batch."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return _error(
        _Facts(code, error.reason, error.message, dict(error.metadata), error.retry_after_ms / 1000)
    )


class _Facts(NamedTuple):
    """What both ways of saying an error have in common."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str]
    retry_after_s: float


# The table: the reason decides where it is known, the code where it is not.
_BY_REASON: dict[str, type[TccError]] = {
    kind.default_reason: kind
    for kind in (
        UnknownParticipant,
        GidConflict,
        BranchConflict,
        DecisionConflict,
        AlreadyDecided,
        NotInteractive,
    )
}
_BY_CODE: dict[grpc.StatusCode, type[TccError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # This client cancels no call whose answer it still wants: the other end went away.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _error(facts: _Facts) -> TccError:
    kind = _BY_REASON.get(facts.reason) or _BY_CODE.get(facts.code, TccError)
    return kind(
        facts.message,
        reason=facts.reason or facts.code.name,
        code=facts.code,
        metadata=facts.metadata,
        retry_after_s=facts.retry_after_s,
    )


def _details_of(error: "grpc.Call | grpc.aio.AioRpcError") -> list[AnyMessage]:
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))  # an AioRpcError is as good as one
    except (DecodeError, ValueError):
        # Details that cannot be read, or that contradict the status, must not hide the status.
        return []
    return list(status.details) if status else []
