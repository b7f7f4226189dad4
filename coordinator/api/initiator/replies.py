"""Replies to initiators, built from the core's values."""

from google.protobuf.timestamp_pb2 import Timestamp

from coordinator.core.machine import CANCEL_MESSAGE_CHARACTERS_MAX, bounded_text, reason_and_message
from coordinator.core.model import (
    DECISIONS,
    HELD,
    Branch,
    BranchKind,
    CancelReason,
    Heuristic,
    Operation,
    Transaction,
    TransactionState,
    TryState,
)
from coordinator.ports.log import Record
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

# The names in an outcome, or in one of its results.
_OUTCOME_BYTES = 512
# Besides payload and result: names, the last error and an operator's reason, at most.
BRANCH_RESPONSE_BYTES = 10 * 2**10

STATES = {
    TransactionState.TRYING: common.TRANSACTION_STATE_TRYING,
    TransactionState.CONFIRMING: common.TRANSACTION_STATE_CONFIRMING,
    TransactionState.CANCELLING: common.TRANSACTION_STATE_CANCELLING,
    TransactionState.CONFIRMED: common.TRANSACTION_STATE_CONFIRMED,
    TransactionState.CANCELLED: common.TRANSACTION_STATE_CANCELLED,
}
_CANCEL_REASONS = {
    CancelReason.NONE: common.CANCEL_REASON_UNSPECIFIED,
    CancelReason.REJECTED: common.CANCEL_REASON_REJECTED,
    CancelReason.EXPIRED: common.CANCEL_REASON_EXPIRED,
    CancelReason.REQUESTED: common.CANCEL_REASON_REQUESTED,
    CancelReason.TRY_FAILED: common.CANCEL_REASON_TRY_FAILED,
}
_HEURISTIC = {
    Heuristic.NONE: common.HEURISTIC_OUTCOME_UNSPECIFIED,
    Heuristic.CONFIRMED: common.HEURISTIC_OUTCOME_CONFIRMED,
    Heuristic.CANCELLED: common.HEURISTIC_OUTCOME_CANCELLED,
}
_HEURISTIC_STATES = {
    Heuristic.CONFIRMED: common.BRANCH_STATE_CONFIRMED,
    Heuristic.CANCELLED: common.BRANCH_STATE_CANCELLED,
}
KINDS = {
    BranchKind.TCC: common.BRANCH_KIND_TCC,
    BranchKind.SAGA: common.BRANCH_KIND_SAGA,
    BranchKind.MESSAGE: common.BRANCH_KIND_MESSAGE,
}
_TRIED = {
    TryState.UNKNOWN: common.BRANCH_STATE_TRYING,
    TryState.SUCCEEDED: common.BRANCH_STATE_TRIED,
    TryState.REJECTED: common.BRANCH_STATE_REJECTED,
    TryState.FAILED: common.BRANCH_STATE_FAILED,
}


def outcome(tx: Transaction) -> pb.TransactionOutcome:
    """Return the durable state of a transaction, in brief."""
    state = tx.saved_state or TransactionState.TRYING
    reply = pb.TransactionOutcome(gid=tx.gid, state=STATES[state])
    if tx.cancel_reason and state.decided:
        reply.cancel_reason = _CANCEL_REASONS[tx.cancel_reason]
        reply.cancel_branch_id = tx.cancel_branch_id
        reply.cancel_detail = tx.cancel_detail
        reply.cancel_message = tx.cancel_message
    for branch in tx.branches:
        if branch.result:
            reply.results.add(
                branch_id=branch.spec.branch_id,
                result=branch.result,
                content_type=branch.result_content_type,
            )
        if branch.heuristic:
            reply.heuristic, reply.mixed_outcome = True, tx.mixed
    return reply


def outcome_bytes(tx: Transaction) -> int:
    """Return about the size of `outcome`, at least its results."""
    texts = len(tx.cancel_detail) + len(tx.cancel_message)
    return _OUTCOME_BYTES + 4 * texts + sum([len(b.result) + _OUTCOME_BYTES for b in tx.branches if b.result])


def try_branch(branch: Branch) -> pb.TryBranchResponse:
    """Return the outcome of a branch's Try."""
    reason, message = reason_and_message(branch.last_error)
    refused = branch.tried in (TryState.REJECTED, TryState.FAILED)
    return pb.TryBranchResponse(
        state=_TRIED[branch.tried],
        reason=reason if refused else "",
        message=bounded_text(message, CANCEL_MESSAGE_CHARACTERS_MAX) if refused else "",
        result=branch.result,
        result_content_type=branch.result_content_type,
    )


def transaction(record: Record, *, with_payloads: bool) -> common.Transaction:
    """Return a transaction in full; a list omits payloads and results."""
    tx = record.tx
    return common.Transaction(
        gid=tx.gid,
        # That of a quarantined transaction may be unreadable.
        state=common.TRANSACTION_STATE_UNSPECIFIED if tx.saved_state is None else STATES[tx.state],
        initiator=tx.initiator,
        labels=dict(tx.labels),
        created_at=timestamp(record.created_at),
        expires_at=timestamp(tx.expires_at),
        decided_at=timestamp(record.decided_at),
        ended_at=timestamp(record.ended_at),
        cancel_reason=_CANCEL_REASONS[tx.cancel_reason],
        cancel_branch_id=tx.cancel_branch_id,
        cancel_detail=tx.cancel_detail,
        cancel_message=tx.cancel_message,
        stuck=tx.stuck,
        owner=record.owner or "",
        version=tx.version,
        branches=[_branch(tx.state, branch, with_payloads=with_payloads) for branch in tx.branches],
        held=tx.held,
        heuristic=tx.heuristic,
        mixed_outcome=tx.mixed,
        trace_id="" if tx.trace is None else tx.trace.trace_id,
        quarantine_reason=record.quarantined,
    )


def timestamp(seconds: float | None) -> Timestamp | None:
    """Return a moment in seconds since the Unix epoch as a Timestamp, or the nearest that there is."""
    if seconds is None:
        return None
    seconds = min(max(seconds, 0.0), HELD)
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    return Timestamp(seconds=whole, nanos=microseconds * 1_000)


def _branch(state: TransactionState, branch: Branch, *, with_payloads: bool) -> common.Branch:
    spec = branch.spec
    return common.Branch(
        spec=common.BranchSpec(
            branch_id=spec.branch_id,
            participant=spec.participant,
            action=spec.action,
            payload=spec.payload if with_payloads else b"",
            content_type=spec.content_type,
            stage=spec.stage,
            kind=KINDS[spec.kind],
            not_before=timestamp(spec.not_before or None),
        ),
        state=_branch_state(state, branch),
        tried_by_initiator=spec.tried_by_initiator,
        result=branch.result if with_payloads else b"",
        result_content_type=branch.result_content_type,
        attempts=branch.attempts,
        last_error=branch.last_error,
        next_attempt_at=timestamp(branch.next_attempt_at)
        if branch.next_attempt_at and not branch.done
        else None,
        heuristic_outcome=_HEURISTIC[branch.heuristic],
        heuristic_reason=branch.heuristic_reason,
        check_back=spec.check_back,
    )


def _branch_state(state: TransactionState, branch: Branch) -> common.BranchState:
    if not branch.done:
        is_message = branch.spec.kind is BranchKind.MESSAGE
        return common.BRANCH_STATE_PENDING if is_message else _TRIED[branch.tried]
    if branch.heuristic:
        return _HEURISTIC_STATES[branch.heuristic]
    if DECISIONS.get(state) is Operation.CONFIRM:
        return common.BRANCH_STATE_CONFIRMED
    return common.BRANCH_STATE_CANCELLED
