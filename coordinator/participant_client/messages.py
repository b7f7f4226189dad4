"""Branch calls and their results, as messages of the contract."""

from collections.abc import Sequence

import grpc

from coordinator.core.machine import ERROR_CHARACTERS_MAX
from coordinator.core.model import (
    CONTENT_TYPE_BYTES_MAX,
    BranchCall,
    BranchKind,
    CallResult,
    Operation,
    OutcomeCode,
)
from tcc._internal.plain_text import plain_text
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb

# Of what a participant answers. The log stores no more of it.
REASON_CHARACTERS_MAX = 200
_UNREACHABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
# Repeating such a call cannot succeed.
_PERMANENT = {
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}
_OPERATIONS = {
    Operation.TRY: common.OPERATION_TRY,
    Operation.CONFIRM: common.OPERATION_CONFIRM,
    Operation.CANCEL: common.OPERATION_CANCEL,
    Operation.CHECK: common.OPERATION_CHECK,
}
_KINDS = {
    BranchKind.TCC: common.BRANCH_KIND_TCC,
    BranchKind.SAGA: common.BRANCH_KIND_SAGA,
    BranchKind.MESSAGE: common.BRANCH_KIND_MESSAGE,
}
# Each call and outcome is compared with them, and the members of an enumeration are slow to look up.
_TCC, _TRY, _SUCCEEDED = BranchKind.TCC, Operation.TRY, OutcomeCode.SUCCEEDED
_VERDICTS = {
    common.OUTCOME_CODE_SUCCEEDED: OutcomeCode.SUCCEEDED,
    common.OUTCOME_CODE_REJECTED: OutcomeCode.REJECTED,
    common.OUTCOME_CODE_FAILED: OutcomeCode.FAILED,
}
_DONE = CallResult(code=OutcomeCode.SUCCEEDED)


def batch_request(calls: Sequence[BranchCall]) -> pb.ExecuteBranchesRequest:
    """Return one message with all `calls`, in their order."""
    request = pb.ExecuteBranchesRequest()
    for call in calls:
        write_call(request.calls.add(), call)
    return request


def write_call(message: pb.BranchCall, call: BranchCall) -> pb.BranchCall:
    """Write `call` into the empty `message`, field by field: keyword arguments would cost twice as much."""
    spec = call.spec
    message.gid = call.gid
    message.branch_id = spec.branch_id
    message.operation = _OPERATIONS[call.operation]
    message.action = spec.action
    message.payload = spec.payload
    message.content_type = spec.content_type
    message.expires_at_ms = round(call.expires_at * 1000)
    message.attempt = call.attempt
    if call.result:
        message.try_result = call.result
        message.try_result_content_type = call.result_content_type
    if spec.tried_by_initiator:
        message.tried_by_initiator = True
    if spec.kind is not _TCC:
        message.kind = _KINDS[spec.kind]
    trace = call.span or call.trace
    if trace is not None:
        message.traceparent = trace.traceparent
        message.tracestate = trace.tracestate
    return message


def call_result(outcome: common.CallResult, operation: Operation, result_bytes_max: int) -> CallResult:
    """Return what a participant answered to a call."""
    code = _VERDICTS.get(outcome.code)
    if code is None:
        return no_answer(f"the participant returned the unknown outcome {outcome.code}")
    if code is not _SUCCEEDED:
        return CallResult(
            code=code,
            # Without our SDK, it may hold line breaks and escape sequences.
            reason=plain_text(outcome.reason, REASON_CHARACTERS_MAX),
            message=plain_text(outcome.message, ERROR_CHARACTERS_MAX),
            permanent=outcome.permanent,
        )
    result = outcome.result
    if not result or operation is not _TRY:
        return _DONE
    if len(result) > result_bytes_max:
        return _result_too_large(result_bytes_max)
    if len(outcome.content_type.encode()) > CONTENT_TYPE_BYTES_MAX or not outcome.content_type.isprintable():
        return _INVALID_CONTENT_TYPE
    return CallResult(code=code, result=result, result_content_type=outcome.content_type)


def _result_too_large(result_bytes_max: int) -> CallResult:
    """Return the outcome of such a result, which can not be passed on."""
    return CallResult(
        code=OutcomeCode.FAILED,
        reason="RESULT_TOO_LARGE",
        message=f"the result of a Try may have at most {result_bytes_max} bytes",
        permanent=True,
    )


def no_answer(message: str) -> CallResult:
    """Return the result of a call whose answer is none."""
    return CallResult(code=OutcomeCode.FAILED, reason="BAD_ANSWER", message=message)


def failure(error: grpc.aio.AioRpcError) -> CallResult:
    """Return the result of the calls of an RPC that failed."""
    code = error.code()
    return CallResult(
        code=OutcomeCode.FAILED,
        reason=code.name,
        message=plain_text(error.details() or "", ERROR_CHARACTERS_MAX),
        permanent=code in _PERMANENT,
        unreachable=code in _UNREACHABLE,
    )


_INVALID_CONTENT_TYPE = CallResult(
    code=OutcomeCode.FAILED,
    reason="INVALID_RESULT",
    message=f"the content type of a result has at most {CONTENT_TYPE_BYTES_MAX} bytes, all printable",
    permanent=True,
)
UNREADABLE = no_answer("the participant's response could not be decoded")
