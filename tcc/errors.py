"""The errors that the client raises, as one class hierarchy below `TccError`.

An error arrives either as a call's status (with google.rpc.ErrorInfo and
google.rpc.RetryInfo) or as the `Error` of one item of a batch. Both are converted to
code, reason, message, metadata and retry hint. One table maps these to a class.
"""

# ruff: noqa: N818 - the names are the terms of the contract

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
    """The base class of all errors that the client raises.

    Attributes:
        code: The gRPC status code.
        reason: A stable UPPER_SNAKE word that programs compare.
        message: A text for people.
        metadata: Further details, by name.
        retry_after_s: Seconds to wait before a retry, as asked by the coordinator; 0 without a hint.
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
    """The request is invalid; `reason` names the problem. Nothing was written."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"


class UnknownParticipant(InvalidRequest):
    """A branch names a participant that is not in the coordinator's configuration."""

    default_reason = "UNKNOWN_PARTICIPANT"


class NotFound(TccError):
    """The log does not hold the transaction. It may have been purged."""

    default_code = grpc.StatusCode.NOT_FOUND
    default_reason = "TRANSACTION_NOT_FOUND"


class Conflict(TccError):
    """An id is already used for different content."""

    default_code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "CONFLICT"


class GidConflict(Conflict):
    """The gid belongs to a transaction with different content."""

    default_reason = "GID_CONFLICT"


class BranchConflict(Conflict):
    """The branch id belongs to a branch of this transaction with different content."""

    default_reason = "BRANCH_CONFLICT"


class PreconditionFailed(TccError):
    """The state of the transaction does not allow the request."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "REFUSED"


class DecisionConflict(PreconditionFailed):
    """The transaction has the other decision, which never changes."""

    default_reason = "DECISION_CONFLICT"


class AlreadyDecided(PreconditionFailed):
    """A branch cannot be added: the transaction is decided, or CONFIRM was requested."""

    default_reason = "ALREADY_DECIDED"


class NotInteractive(PreconditionFailed):
    """The request needs an interactive transaction, and this one was begun by `execute`."""

    default_reason = "NOT_INTERACTIVE"


class LocalAlreadyCommitted(PreconditionFailed):
    """An earlier run of this transaction has committed its local change, which is not made again.

    Leaving the transaction's block confirms it.
    """

    default_reason = "LOCAL_ALREADY_COMMITTED"


class LocalCommitUnknown(TccError):
    """The connection was lost while the local change was committed: it is there, or it is not.

    Nothing is requested. After the expiry the coordinator asks the participant and decides
    accordingly. Call `wait` or `get`.
    """

    default_reason = "LOCAL_COMMIT_UNKNOWN"


class ResourceExhausted(TccError):
    """The coordinator has reached a limit, or a message is too large. Nothing was written."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(TccError):
    """No coordinator could be reached, or none accepted the call, before the timeout.

    An earlier attempt may have taken effect: repeat with the same gid, or call `get`.
    """

    default_code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(TccError):
    """The timeout passed before the coordinator responded.

    The transaction continues without the caller: repeat with the same gid, or call `wait` or `get`.
    If the coordinator knows a branch that keeps failing, the message names it and `metadata` has
    its `branch_id` and `last_error`.
    """

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class PermissionDenied(TccError):
    """The caller is not authenticated or lacks the permission."""

    default_code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class InternalError(TccError):
    """The coordinator failed because of a fault of its own."""

    default_code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


class ClientClosed(TccError):
    """The client was closed before the response. A transaction that was begun continues without it."""

    default_code = grpc.StatusCode.CANCELLED
    default_reason = "CLIENT_CLOSED"


class TransactionCancelled(TccError):
    """The transaction's decision is CANCEL. All reservations are or will be released.

    Attributes:
        cancel_reason: The `CancelReason`; its name is also `reason`.
        cancel_branch_id: The id of the branch whose Try caused it; empty if none did.
        detail: The participant's stable reason (`SOLD_OUT`), or the initiator's text.
        cancel_message: The participant's message ("only 2 left"), for people.
        message: All of this in one line.
        outcome: The whole `Outcome`.
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
        # Exceptions are copied and pickled by `args`, which hold only the message.
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
    """The transaction expired while a Try kept failing. `cancel_reason` is EXPIRED.

    Attributes:
        cancel_branch_id: The id of the branch whose Try failed.
        detail: The reason of its last error.
        cancel_message: The message of its last error.
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

    Args:
        error: An AioRpcError, or the error of a sync call. Both have the methods of a call.
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    info, hint = ErrorInfo(), RetryInfo()
    # Malformed details must not hide the status.
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
    """The content that both forms of an error share."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str]
    retry_after_s: float


# By reason if that is known, otherwise by code.
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
    # The client cancels no call that it still waits for: the server closed the connection.
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
        status = rpc_status.from_call(cast("grpc.Call", error))  # an AioRpcError has the same methods
    except (DecodeError, ValueError):
        # Malformed or contradictory details must not hide the status.
        return []
    return list(status.details) if status else []
