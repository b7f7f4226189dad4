"""Reconciliation for operators: stream findings as they are made, and repair single ones."""

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

from google.protobuf.duration_pb2 import Duration

from coordinator.api.initiator.replies import STATES
from coordinator.api.initiator.requests import checked_content_type, checked_gid, duration_s
from coordinator.api.operator.approvals import Approvals
from coordinator.api.operator.replies import audit_record
from coordinator.api.operator.requests import OperatorContext, checked_text
from coordinator.core.errors import (
    InvalidRequest,
    ParticipantPaused,
    ParticipantUnreachable,
    ReconciliationUnsupported,
    RepairNotAllowed,
    UnknownParticipant,
)
from coordinator.core.model import CallResult, Operation, OutcomeCode
from coordinator.core.reconciliation import BarrierState, Finding, FindingKind
from coordinator.engine.reconciler import Reconciler
from coordinator.ports.operator_log import OperatorLog
from tcc.admin.v1 import admin_pb2 as pb
from tcc.common.v1 import common_pb2 as common

_KINDS = {
    FindingKind.ORPHAN: pb.FINDING_KIND_ORPHAN,
    FindingKind.LEAK: pb.FINDING_KIND_LEAK,
    FindingKind.MIXED: pb.FINDING_KIND_MIXED,
}
_BARRIER_STATES = {
    BarrierState.TRIED: common.BARRIER_STATE_TRIED,
    BarrierState.CONFIRMED: common.BARRIER_STATE_CONFIRMED,
    BarrierState.CANCELLED: common.BARRIER_STATE_CANCELLED,
}
_REPAIRS = {
    None: common.OPERATION_UNSPECIFIED,
    Operation.CONFIRM: common.OPERATION_CONFIRM,
    Operation.CANCEL: common.OPERATION_CANCEL,
}
_WANTED = {number: operation for operation, number in _REPAIRS.items()}
_CODES = {
    OutcomeCode.SUCCEEDED: common.OUTCOME_CODE_SUCCEEDED,
    OutcomeCode.REJECTED: common.OUTCOME_CODE_REJECTED,
    OutcomeCode.FAILED: common.OUTCOME_CODE_FAILED,
}


_REPAIR = "branch.repair"
# How many participants a request may name.
PARTICIPANTS_MAX = 1_000
# A hundred years. What a participant computes from an age must stay a time.
AGE_MAX_S = 100 * 365 * 86_400.0


async def compare(
    reconciler: Reconciler, request: pb.ReconcileRequest
) -> AsyncIterator[pb.ReconcileResponse]:
    """Yield the responses to a request for reconciliation.

    Raises:
        InvalidRequest, LogUnavailable, UnknownParticipant
    """
    min_age_s = reconciler.settings.min_age_s
    if request.HasField("min_age"):
        min_age_s = _seconds("min_age", request.min_age)
    ended_within_s = _seconds("ended_within", request.ended_within)
    known = reconciler.participants
    if len(request.participants) > PARTICIPANTS_MAX:
        raise InvalidRequest("TOO_MANY_PARTICIPANTS", f"at most {PARTICIPANTS_MAX} participants can be named")
    for name in request.participants:
        if name not in known:
            raise UnknownParticipant(
                f"this coordinator is not configured with participant {name!r}",
                metadata={"participant": name},
            )
    for name in sorted(set(request.participants)) or known:
        ended = pb.ParticipantReconciliation(participant=name, outcome=pb.RECONCILIATION_OUTCOME_COMPARED)
        try:
            async for page in reconciler.compare(name, min_age_s=min_age_s, ended_within_s=ended_within_s):
                ended.rows += page.rows
                ended.findings += len(page.findings)
                if page.findings:
                    yield pb.ReconcileResponse(findings=map(_finding, page.findings))
        except ReconciliationUnsupported as error:
            ended.outcome, ended.detail = pb.RECONCILIATION_OUTCOME_UNSUPPORTED, error.message
        except ParticipantPaused as error:
            ended.outcome, ended.detail = pb.RECONCILIATION_OUTCOME_PAUSED, error.message
        except (
            ParticipantUnreachable,
            UnknownParticipant,
        ) as error:  # removed from the configuration in the meantime
            ended.outcome, ended.detail = pb.RECONCILIATION_OUTCOME_UNREACHABLE, error.message
        yield pb.ReconcileResponse(ended=ended)


async def repair(
    reconciler: Reconciler,
    log: OperatorLog,
    approvals: Approvals,
    request: pb.RepairBranchRequest,
    operator_context: OperatorContext,
    *,
    payload_bytes_max: int,
) -> pb.RepairBranchResponse:
    """Check again, record what is about to be done, and do it.

    Raises:
        Refused: nothing was done; see `Reconciler.find` and `Reconciler.checked_repair`.
    """
    if request.operation not in _WANTED:
        raise InvalidRequest(
            "INVALID_OPERATION", "operation must be OPERATION_CONFIRM, OPERATION_CANCEL or unset"
        )
    if len(request.payload) > payload_bytes_max:
        raise InvalidRequest("PAYLOAD_TOO_LARGE", f"a payload may have at most {payload_bytes_max} bytes")
    checked_content_type(request.content_type)
    finding = await reconciler.find(
        checked_text("participant", request.participant),
        checked_gid(request.gid),
        checked_text("branch_id", request.branch_id),
    )
    operation = reconciler.checked_repair(finding, _WANTED[request.operation])
    if (request.payload or request.content_type) and await reconciler.has_payload(finding):
        raise RepairNotAllowed("the log has the payload of this branch; omit it")
    target = f"transaction/{finding.row.gid}"
    arguments = {
        "participant": finding.participant,
        "branch_id": finding.row.branch_id,
        "operation": operation.name,
        "payload_sha256": sha256(request.payload).hexdigest() if request.payload else "",
        "content_type": request.content_type,
    }
    approves = await approvals.used(_REPAIR, target, arguments, operator_context, tenant=None)
    detail: dict[str, Any] = {
        "participant": finding.participant,
        "branch_id": finding.row.branch_id,
        "finding": finding.kind.name,
        "operation": operation.name,
    }
    if approves:
        detail["approves"] = approves
    audited = await log.audit_append(operator_context.entry(_REPAIR, target, detail))
    await approvals.check_first(audited, approves)
    answer = await reconciler.repair(
        finding, operation, payload=request.payload, content_type=request.content_type
    )
    return pb.RepairBranchResponse(
        finding=_finding(finding), result=_outcome(answer), audit_record=audit_record(audited)
    )


def _seconds(name: str, given: Duration) -> float:
    seconds = duration_s(name, given)
    if not 0 <= seconds <= AGE_MAX_S:
        raise InvalidRequest(f"INVALID_{name.upper()}", f"{name} must be from 0 to {AGE_MAX_S:g} seconds")
    return seconds


def _finding(finding: Finding) -> pb.Finding:
    reply = pb.Finding(
        participant=finding.participant,
        gid=finding.row.gid,
        branch_id=finding.row.branch_id,
        action=finding.row.action,
        kind=_KINDS[finding.kind],
        barrier_state=_BARRIER_STATES[finding.row.state],
        explanation=finding.explanation,
        repair=_REPAIRS[finding.repair],
    )
    if finding.state is not None:
        reply.transaction_state = STATES[finding.state]
    reply.age.FromMicroseconds(round(finding.row.age_s * 1e6))
    return reply


def _outcome(answer: CallResult) -> common.CallResult:
    return common.CallResult(
        code=_CODES[answer.code],
        reason=answer.reason,
        message=answer.message,
        permanent=answer.permanent,
    )
