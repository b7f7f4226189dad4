"""The state machine of a transaction. Every decision about a transaction is made in this file.

`step(transaction, event, now)` returns the transaction after the event, and the
effects to perform, in order. It does no I/O and reads no clock: time and jitter are
arguments. An event that a state does not allow changes nothing and raises one of
`core.errors`.

The rules, in the order in which they apply to a transaction:

1. Nothing is sent before it is durable. A branch's Try is called only when the
   log holds the branch. Confirm and Cancel are called only when the log holds the
   decision; until then no request is refused because of it. The core therefore
   tracks the saved state (`saved_state`, `saved_branches`) beside the present one,
   keeps at most one write in flight, and compares the two when it is durable.
2. CONFIRM is decided only when every Try has succeeded, and before the expiry.
   One rejection, one permanent failure, the expiry or a request of the initiator
   decides CANCEL. A Try whose outcome is unknown is repeated until then. If this
   coordinator does not know a participant, it parks the transaction for one that does,
   and decides nothing because of the expiry either, until UNKNOWN_GRACE_S after it.
3. The decision is made once: TRANSITIONS has no way from one to the other.
4. Every branch that is in the log gets the decision, also one whose Try was never
   answered: its participant's barrier makes an empty cancel a success.
5. Phase two never gives up. When the calls that are due have all ended and some
   failed, the transaction is parked: written to the log without an owner, due
   at its next attempt, so that a million parked transactions need no memory. Too
   many failures make it stuck, which operators are notified of; nothing else changes.
6. A result counts only while that call is in flight; any other is stale.
7. An operator's command applies to the row. Afterwards the transaction has ended, or
   is parked: due now, or held, which means parked indefinitely. A hold does not stop
   the expiry: a transaction that is released past it is cancelled. After the decision,
   an operator may end a branch. That never changes the decision.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from msgspec.structs import replace

from coordinator.core.backoff import delay_s
from coordinator.core.errors import (
    AlreadyDecided,
    BranchConflict,
    BranchDone,
    BranchNotFound,
    BranchPending,
    DecisionConflict,
    NotDecided,
    NotInteractive,
    TooManyBranches,
    TransactionEnded,
    TransactionHeld,
    TransactionNotHeld,
    TransactionTooLarge,
    UnknownParticipant,
)
from coordinator.core.events import (
    Accepted,
    BecameStuck,
    Begun,
    BranchAdded,
    BranchRegistered,
    BranchTried,
    CallCompleted,
    CancelRequested,
    Completed,
    ConfirmRequested,
    Decided,
    Effect,
    Event,
    OperatorCancel,
    OperatorCommand,
    OperatorHold,
    OperatorRelease,
    OperatorResolve,
    OperatorRetry,
    Parked,
    Resumed,
    Save,
    Saved,
    Woken,
)
from coordinator.core.model import (
    DECISIONS,
    HELD,
    NEVER,
    NOW,
    UNKNOWN_CONTENT_TYPE,
    Branch,
    BranchCall,
    BranchSpec,
    CallResult,
    CancelReason,
    Operation,
    OutcomeCode,
    Transaction,
    TransactionState,
    TryState,
)


class Trigger(Enum):
    """What makes a transaction change its state."""

    EVERY_TRY_SUCCEEDED = "every Try succeeded"
    TRY_REJECTED = "a Try was rejected"
    TRY_FAILED = "a Try failed for good"
    EXPIRED = "the expiry passed"
    CANCEL_REQUESTED = "the initiator cancels"
    EVERY_BRANCH_DONE = "every branch is done"


TRANSITIONS: Mapping[TransactionState, Mapping[Trigger, TransactionState]] = {
    TransactionState.TRYING: {
        Trigger.EVERY_TRY_SUCCEEDED: TransactionState.CONFIRMING,
        Trigger.TRY_REJECTED: TransactionState.CANCELLING,
        Trigger.TRY_FAILED: TransactionState.CANCELLING,
        Trigger.EXPIRED: TransactionState.CANCELLING,
        Trigger.CANCEL_REQUESTED: TransactionState.CANCELLING,
    },
    TransactionState.CONFIRMING: {Trigger.EVERY_BRANCH_DONE: TransactionState.CONFIRMED},
    TransactionState.CANCELLING: {Trigger.EVERY_BRANCH_DONE: TransactionState.CANCELLED},
    TransactionState.CONFIRMED: {},
    TransactionState.CANCELLED: {},
}

_CANCEL_REASONS = {
    Trigger.TRY_REJECTED: CancelReason.REJECTED,
    Trigger.TRY_FAILED: CancelReason.TRY_FAILED,
    Trigger.EXPIRED: CancelReason.EXPIRED,
    Trigger.CANCEL_REQUESTED: CancelReason.REQUESTED,
}

# The call by which a decided state is carried out.
PHASE_TWO = {state: decision for state, decision in DECISIONS.items() if not state.ended}

# For this long after the expiry, a coordinator leaves the decision to one that knows every participant.
UNKNOWN_GRACE_S = 60.0

# The length to which a participant's error text is cut.
ERROR_CHARACTERS_MAX = 1_000
# The length of a participant's message in replies to the initiator.
CANCEL_MESSAGE_CHARACTERS_MAX = 500

Step = tuple[Transaction, tuple[Effect, ...]]


def step(tx: Transaction, event: Event, now: float) -> Step:
    """Apply `event` to `tx` at `now` (seconds, the log's clock).

    Raises:
        Refused: the state of `tx` does not allow the event. Nothing changes.
    """
    return _REACTIONS[tx.state][type(event)](tx, event, now)


def same_branch(one: BranchSpec, other: BranchSpec) -> bool:
    """Return whether two descriptions of a branch have the same content."""
    return replace(one, cancel_in_stage_order=False) == replace(other, cancel_in_stage_order=False)


def is_calling(tx: Transaction, index: int, operation: Operation) -> bool:
    """Return whether this call is in flight.

    One that left before its sender lost the transaction may name a branch of which the
    transaction, begun here again in the meantime, knows nothing of it.
    """
    return index < len(tx.branches) and tx.branches[index].calling is operation


def branch_call(tx: Transaction, index: int, operation: Operation) -> BranchCall:
    """Return the call of `operation` on a branch."""
    branch = tx.branches[index]
    return BranchCall(
        gid=tx.gid,
        index=index,
        operation=operation,
        spec=branch.spec,
        expires_at=tx.expires_at,
        attempt=branch.attempts,
        result=branch.result,
        result_content_type=branch.result_content_type,
        trace=tx.trace,
        failed_span_id=branch.failed_span_id if branch.attempts else "",
    )


# --- durability -----------------------------------------------------------


def _begin(tx: Transaction, _event: Begun, _now: float) -> Step:
    return _save(replace(tx, wake_at=tx.expires_at))


def _save(tx: Transaction) -> Step:
    """Write `tx`, or leave that to `_on_saved` while another write is in flight."""
    if tx.saving:
        return tx, ()
    return (
        replace(tx, saving=True, saving_state=tx.state, saving_branches=len(tx.branches)),
        (Save(),),
    )


def _on_saved(tx: Transaction, _event: Saved, now: float) -> Step:
    assert tx.saving, "a write is durable that was never sent"
    before_state, before_branches = tx.saved_state, tx.saved_branches
    tx = replace(
        tx,
        version=tx.version + 1,
        saving=False,
        saved_state=tx.saving_state,
        saved_branches=tx.saving_branches,
    )
    notifications = _durable_notifications(tx, before_state, before_branches)
    if tx.saved_state is not tx.state or tx.saved_branches != len(tx.branches):
        tx, effects = _save(tx)
    elif tx.state.ended or tx.next_attempt_at:
        effects = ()
    elif tx.state is TransactionState.TRYING:
        tx, effects = _go_on_trying(tx, now)
    else:
        tx, effects = _go_on_with_phase_two(tx)
    return tx, notifications + effects


def _durable_notifications(
    tx: Transaction, before_state: TransactionState | None, before_branches: int
) -> tuple[Effect, ...]:
    """Return the effects of what the latest write made durable."""
    notifications: list[Effect] = []
    if before_state is None:
        notifications.append(Accepted())
    if tx.interactive:
        notifications.extend(BranchRegistered(index) for index in range(before_branches, tx.saved_branches))
    state = tx.saved_state
    assert state is not None
    if state.decided and not (before_state and before_state.decided):
        notifications.append(Decided())
    if state.ended:
        notifications.append(Completed())
    elif tx.next_attempt_at:
        notifications.append(Parked())
    return tuple(notifications)


# --- phase one ------------------------------------------------------------


def _go_on_trying(tx: Transaction, now: float) -> Step:
    """Decide if it can be decided; otherwise call every Try that is due."""
    if tx.next_attempt_at:
        return tx, ()  # it is being parked for another coordinator
    if now >= tx.expires_at:
        return _expire(tx)
    succeeded = TryState.SUCCEEDED
    stages = [branch.spec.stage for branch in tx.branches if branch.tried is not succeeded]
    if not stages and (tx.confirm_requested or not tx.interactive):
        return _confirm(tx)
    return _call_tries(tx, min(stages, default=0), now)


def _call_tries(tx: Transaction, stage: int, now: float) -> Step:
    """Call the Trys of `stage` that are durable, unanswered, due and not in flight."""
    unknown = TryState.UNKNOWN
    branches = list(tx.branches)
    calls: list[Effect] = []
    wake_at = tx.expires_at
    for index, branch in enumerate(tx.branches[: tx.saved_branches]):
        if branch.tried is not unknown or branch.calling or branch.spec.tried_by_initiator:
            continue
        if branch.next_attempt_at > now:
            wake_at = min(wake_at, branch.next_attempt_at)
        elif branch.spec.stage == stage:
            branches[index] = replace(branch, calling=Operation.TRY)
            calls.append(branch_call(tx, index, Operation.TRY))
    if not calls:
        return (tx if wake_at == tx.wake_at else replace(tx, wake_at=wake_at)), ()
    return replace(tx, branches=tuple(branches), wake_at=wake_at), tuple(calls)


def _on_try_answered(tx: Transaction, event: CallCompleted, now: float) -> Step:
    if not is_calling(tx, event.index, event.operation):
        return tx, ()
    branch, answer = tx.branches[event.index], event.answer
    match answer.code:
        case OutcomeCode.SUCCEEDED:
            return _on_try_succeeded(tx, event.index, answer, now)
        case OutcomeCode.REJECTED:
            return _on_try_refused(tx, event.index, answer, TryState.REJECTED, Trigger.TRY_REJECTED)
        case OutcomeCode.FAILED if answer.unknown_participant:
            return _leave_to_others(tx, event, now)
        case OutcomeCode.FAILED if answer.permanent:
            return _on_try_refused(tx, event.index, answer, TryState.FAILED, Trigger.TRY_FAILED)
        case OutcomeCode.FAILED:
            return _go_on_trying(with_branch(tx, event.index, _failed(branch, event, now)), now)


def _on_try_succeeded(tx: Transaction, index: int, answer: CallResult, now: float) -> Step:
    branch = replace(
        tx.branches[index],
        tried=TryState.SUCCEEDED,
        calling=None,
        result=answer.result,
        result_content_type=answer.result_content_type,
    )
    tx, effects = _go_on_trying(with_branch(tx, index, branch), now)
    return tx, ((BranchTried(index), *effects) if tx.interactive else effects)


def _leave_to_others(tx: Transaction, event: CallCompleted, now: float) -> Step:
    """Park the transaction for a coordinator that knows the participant.

    Trys in flight become stale; the next owner repeats them. While another write is in flight, the
    Try is only repeated later.
    """
    branch = _failed(tx.branches[event.index], event, now)
    if tx.saving or _is_unknown_for_good(tx, now):
        return _go_on_trying(with_branch(tx, event.index, branch), now)
    # The next owner need not wait with its call.
    tx = with_branch(tx, event.index, replace(branch, next_attempt_at=NOW))
    return _park_for_others(tx, branch.spec.participant, now)


def _is_unknown_for_good(tx: Transaction, now: float) -> bool:
    """Return whether no coordinator that knows the participant has come, long after the expiry."""
    return now >= tx.expires_at + UNKNOWN_GRACE_S


def _park_for_others(tx: Transaction, participant: str, now: float) -> Step:
    branches = tuple(replace(branch, calling=None) if branch.calling else branch for branch in tx.branches)
    return _save(replace(tx, branches=branches, next_attempt_at=now, waiting_on=participant))


def _on_try_refused(
    tx: Transaction, index: int, answer: CallResult, tried: TryState, trigger: Trigger
) -> Step:
    branch = replace(tx.branches[index], tried=tried, calling=None, last_error=error_text(answer))
    tx = with_branch(tx, index, branch)
    return _cancel(tx, trigger, branch_id=branch.spec.branch_id, detail=answer.reason, message=answer.message)


def _add_branch(tx: Transaction, event: BranchAdded, now: float) -> Step:
    if not tx.interactive:
        raise NotInteractive("this transaction was begun whole; no branch can join it")
    _refuse_if_held(tx)
    index = _find(tx, event.spec)
    if index is not None:
        return _repeat_branch(tx, index, now)
    if tx.confirm_requested:
        raise AlreadyDecided("CONFIRM was asked for; no branch can join any more")
    if now >= tx.expires_at:
        return _expire(tx)
    if len(tx.branches) >= event.branches_max:
        raise TooManyBranches(f"at most {event.branches_max} branches")
    bytes_before = sum(len(branch.spec.payload) for branch in tx.branches)
    if bytes_before + len(event.spec.payload) > event.transaction_bytes_max:
        raise TransactionTooLarge(
            f"payloads of a transaction may hold at most {event.transaction_bytes_max} bytes"
        )
    return _save(replace(tx, branches=(*tx.branches, Branch(spec=event.spec))))


def _repeat_branch(tx: Transaction, index: int, now: float) -> Step:
    """Repeat the reply to a known request, and repeat a Try that waits."""
    if index >= tx.saved_branches:
        return tx, ()
    if tx.branches[index].tried is TryState.SUCCEEDED:
        return tx, (BranchRegistered(index), BranchTried(index))
    branch = replace(tx.branches[index], next_attempt_at=NOW)
    tx, effects = _go_on_trying(with_branch(tx, index, branch), now)
    return tx, (BranchRegistered(index), *effects)


def _find(tx: Transaction, spec: BranchSpec) -> int | None:
    """Return the index of the branch with this id.

    Raises:
        BranchConflict: there is one, but it asks for something else.
        BranchPending: the same, but the log has not said yet that it was first: another
            coordinator may have been faster, with what is asked for here.
    """
    for index, branch in enumerate(tx.branches):
        if branch.spec.branch_id == spec.branch_id:
            if tx.state.ended and branch.spec.content_type == UNKNOWN_CONTENT_TYPE:
                # Its payload has been erased, and nothing can be done any more.
                spec = replace(spec, payload=b"", content_type=UNKNOWN_CONTENT_TYPE)
            if not same_branch(branch.spec, spec):
                if index >= tx.saved_branches:
                    raise BranchPending(
                        f"branch {spec.branch_id!r} is being registered with different content",
                        retry_after_s=0.05,
                    )
                raise BranchConflict(f"branch {spec.branch_id!r} exists with different content")
            return index
    return None


def _request_confirm(tx: Transaction, _event: ConfirmRequested, now: float) -> Step:
    if not tx.interactive:
        raise NotInteractive("this transaction is decided by the coordinator alone")
    _refuse_if_held(tx)
    branches = tuple(
        replace(branch, tried=TryState.SUCCEEDED) if branch.spec.tried_by_initiator else branch
        for branch in tx.branches
    )
    return _go_on_trying(replace(tx, branches=branches, confirm_requested=True), now)


def _request_cancel(tx: Transaction, event: CancelRequested, _now: float) -> Step:
    _refuse_if_held(tx)
    return _cancel(tx, Trigger.CANCEL_REQUESTED, detail=event.detail)


def _refuse_if_held(tx: Transaction) -> None:
    if tx.held:
        raise TransactionHeld("an operator holds the transaction", metadata=status_metadata(tx))


def _wake(tx: Transaction, _event: Woken, now: float) -> Step:
    return _go_on_trying(tx, now)


# --- the decision ---------------------------------------------------------


def _confirm(tx: Transaction) -> Step:
    return _decide(tx, Trigger.EVERY_TRY_SUCCEEDED)


def _expire(tx: Transaction) -> Step:
    """Cancel because of the expiry. If a Try kept failing until then, that is the reason."""
    branch = failing_branch(tx)
    if branch is None:
        return _cancel(tx, Trigger.EXPIRED)
    reason, message = reason_and_message(branch.last_error)
    return _cancel(tx, Trigger.EXPIRED, branch_id=branch.spec.branch_id, detail=reason, message=message)


def failing_branch(tx: Transaction) -> Branch | None:
    """Return the branch that keeps `tx` from going on, as far as is known: the one that failed most.

    A Try may have failed without an attempt: the call was not sent.
    """
    if tx.state is TransactionState.TRYING:
        failing = [b for b in tx.branches if b.tried is TryState.UNKNOWN and b.last_error]
    else:
        failing = [b for b in tx.branches if not b.done and b.attempts and b.last_error]
    return max(failing, key=lambda branch: branch.attempts, default=None)


def _cancel(
    tx: Transaction, trigger: Trigger, *, branch_id: str = "", detail: str = "", message: str = ""
) -> Step:
    return _decide(
        replace(
            tx,
            cancel_reason=_CANCEL_REASONS[trigger],
            cancel_branch_id=branch_id,
            cancel_detail=bounded_text(detail, ERROR_CHARACTERS_MAX),
            cancel_message=bounded_text(message, CANCEL_MESSAGE_CHARACTERS_MAX),
        ),
        trigger,
    )


def _decide(tx: Transaction, trigger: Trigger) -> Step:
    """Make the decision. Trys that are still in flight become stale."""
    branches = tuple(
        replace(branch, calling=None, attempts=0, next_attempt_at=NOW)
        if branch.calling or branch.attempts or branch.next_attempt_at != NOW
        else branch
        for branch in tx.branches
    )
    return _save(replace(tx, state=TRANSITIONS[tx.state][trigger], branches=branches, wake_at=NEVER))


# --- phase two ------------------------------------------------------------


def _go_on_with_phase_two(tx: Transaction) -> Step:
    """Call every branch that is due; when none is in flight, end or park the transaction."""
    operation = PHASE_TWO[tx.state]
    calls: list[Effect] = []
    branches = list(tx.branches)
    in_flight = False
    all_done = True
    for index, branch in enumerate(tx.branches):
        if branch.done:
            continue
        all_done = False
        if (
            branch.calling is None
            and branch.next_attempt_at == NOW
            and not _waits_for_later_stage(tx, branch)
        ):
            branches[index] = replace(branch, calling=operation)
            calls.append(branch_call(tx, index, operation))
            in_flight = True
        elif branch.calling:
            in_flight = True
    if all_done:
        return _end(tx)
    if not in_flight:
        return _park(tx)
    if not calls:
        return tx, ()
    return replace(tx, branches=tuple(branches)), tuple(calls)


def _waits_for_later_stage(tx: Transaction, branch: Branch) -> bool:
    return (
        branch.spec.cancel_in_stage_order
        and tx.state is TransactionState.CANCELLING
        and any(not other.done and other.spec.stage > branch.spec.stage for other in tx.branches)
    )


def _end(tx: Transaction) -> Step:
    state = TRANSITIONS[tx.state][Trigger.EVERY_BRANCH_DONE]
    return _save(replace(tx, state=state, stuck=False))


def _park(tx: Transaction) -> Step:
    waiting = min(
        (b for b in tx.branches if not b.done and b.next_attempt_at != NOW), key=lambda b: b.next_attempt_at
    )
    return _save(replace(tx, next_attempt_at=waiting.next_attempt_at, waiting_on=waiting.spec.participant))


def _on_phase_two_answered(tx: Transaction, event: CallCompleted, now: float) -> Step:
    if not is_calling(tx, event.index, event.operation):
        return tx, ()
    branch = tx.branches[event.index]
    if event.answer.code is OutcomeCode.SUCCEEDED:
        branch = replace(branch, done=True, calling=None)
        return _go_on_with_phase_two(with_branch(tx, event.index, branch))
    tx = with_branch(tx, event.index, _failed(branch, event, now))
    notifications: tuple[Effect, ...] = ()
    if not tx.stuck and _is_stuck(tx.branches[event.index], event):
        tx, notifications = replace(tx, stuck=True), (BecameStuck(event.index),)
    tx, effects = _go_on_with_phase_two(tx)
    return tx, notifications + effects


def _is_stuck(branch: Branch, event: CallCompleted) -> bool:
    """Return whether an operator is needed: at once if repeating cannot help, else after N attempts."""
    return not event.answer.not_sent and (
        event.answer.permanent or branch.attempts >= event.policy.attempts_before_stuck
    )


# --- both phases ----------------------------------------------------------


def _failed(branch: Branch, event: CallCompleted, now: float) -> Branch:
    """Return the branch after a failed call, with its next attempt. An unsent call counts no attempt."""
    answer = event.answer
    if answer.not_sent:
        # The error of an attempt is more useful than why a call was not sent.
        last_error = branch.last_error or error_text(answer)
        return replace(
            branch, calling=None, next_attempt_at=now + answer.retry_after_s, last_error=last_error
        )
    attempts = branch.attempts + 1
    wait_s = max(answer.retry_after_s, delay_s(attempts, event.policy, event.jitter))
    return replace(
        branch, calling=None, attempts=attempts, next_attempt_at=now + wait_s, last_error=error_text(answer)
    )


def error_text(answer: CallResult) -> str:
    """Return the error text of a failed call, cut to a bounded length."""
    error_text = f"{answer.reason}: {answer.message}" if answer.message else answer.reason
    return error_text[:ERROR_CHARACTERS_MAX]


def reason_and_message(last_error: str) -> tuple[str, str]:
    """Return the two parts that `error_text` has put together."""
    reason, _, message = last_error.partition(": ")
    return reason, message


def bounded_text(text: str, characters_max: int) -> str:
    """Return the text as the log can hold it, so that the first answer is the same as any later one."""
    text = text[:characters_max]
    if not text.isascii():
        text = text.encode(errors="replace").decode()  # UTF-8 holds no lone surrogates
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def with_branch(tx: Transaction, index: int, branch: Branch) -> Transaction:
    """Return the transaction with `branch` in the place of the one at `index`."""
    branches = list(tx.branches)
    branches[index] = branch
    return replace(tx, branches=tuple(branches))


def _resume_trying(tx: Transaction, event: Resumed, now: float) -> Step:
    """Repeat the Trys whose results are not known; they may have been sent."""
    unknown = event.unknown_participant
    if unknown and not _is_unknown_for_good(tx, now):
        return _park_for_others(_with_unknown(tx, unknown), unknown, now)
    branches = tuple(
        replace(branch, attempts=max(1, branch.attempts)) if branch.tried is TryState.UNKNOWN else branch
        for branch in tx.branches
    )
    return _go_on_trying(replace(_unparked(tx, tx.expires_at), branches=branches), now)


def _with_unknown(tx: Transaction, participant: str) -> Transaction:
    """Return the transaction with the reason for which its branches at a participant are not tried."""
    error = (
        f"{UnknownParticipant.reason}: this coordinator is not configured with participant {participant!r}"
    )
    branches = tuple(
        replace(branch, last_error=branch.last_error or error)
        if branch.spec.participant == participant and branch.tried is TryState.UNKNOWN
        else branch
        for branch in tx.branches
    )
    return replace(tx, branches=branches)


def _resume_phase_two(tx: Transaction, _event: Resumed, now: float) -> Step:
    """Call what is due, at least the earliest branch: clocks differ, and another clock found it due.

    A branch that is due NOW may wait for a later stage, and is not what was found.
    """
    due_by = max(
        now,
        min((b.next_attempt_at for b in tx.branches if not b.done and b.next_attempt_at != NOW), default=now),
    )
    branches = tuple(
        replace(branch, next_attempt_at=NOW)
        if not branch.done and branch.next_attempt_at <= due_by
        else branch
        for branch in tx.branches
    )
    return _go_on_with_phase_two(replace(_unparked(tx, NEVER), branches=branches))


def _unparked(tx: Transaction, wake_at: float) -> Transaction:
    return replace(tx, next_attempt_at=0.0, waiting_on="", wake_at=wake_at)


# --- operator commands ----------------------------------------------------


def _hold(tx: Transaction, _event: OperatorHold, _now: float) -> Step:
    if tx.held:
        raise TransactionHeld("the transaction is held already", metadata=status_metadata(tx))
    return _save(_parked(tx, HELD))


def _release(tx: Transaction, _event: OperatorRelease, now: float) -> Step:
    if not tx.held:
        raise TransactionNotHeld("the transaction is not held", metadata=status_metadata(tx))
    return _save(_parked(tx, now))


def _retry(tx: Transaction, _event: OperatorRetry, now: float) -> Step:
    if tx.held:
        raise TransactionHeld("the transaction is held; release it instead", metadata=status_metadata(tx))
    branches = tuple(
        branch if branch.done else replace(branch, next_attempt_at=NOW) for branch in tx.branches
    )
    return _save(_parked(replace(tx, branches=branches), now))


def _cancel_by_operator(tx: Transaction, event: OperatorCancel, now: float) -> Step:
    return _cancel(_parked(tx, now), Trigger.CANCEL_REQUESTED, detail=event.detail)


def _resolve_branch(tx: Transaction, event: OperatorResolve, now: float) -> Step:
    index = next((i for i, b in enumerate(tx.branches) if b.spec.branch_id == event.branch_id), None)
    if index is None:
        raise BranchNotFound(f"no branch {event.branch_id!r}", metadata={"branch_id": event.branch_id})
    if tx.branches[index].done:
        raise BranchDone(f"branch {event.branch_id!r} is done", metadata={"branch_id": event.branch_id})
    branch = replace(
        tx.branches[index],
        done=True,
        heuristic=event.outcome,
        heuristic_reason=event.reason[:ERROR_CHARACTERS_MAX],
    )
    tx = with_branch(tx, index, branch)
    if all(branch.done for branch in tx.branches):
        return _end(tx)
    return _save(tx if tx.held else _parked(tx, now))


def _parked(tx: Transaction, until: float) -> Transaction:
    return replace(tx, next_attempt_at=until, waiting_on="")


def _refuse_undecided(tx: Transaction, _event: OperatorCommand, _now: float) -> Step:
    raise NotDecided("nothing is decided yet that could be carried out", metadata=status_metadata(tx))


def _refuse_ended(tx: Transaction, _event: OperatorCommand, _now: float) -> Step:
    raise TransactionEnded(f"the transaction is {tx.state.name}", metadata=status_metadata(tx))


def _refuse_cancel(tx: Transaction, _event: OperatorCancel, _now: float) -> Step:
    raise DecisionConflict(
        f"the transaction is {tx.state.name}; only an undecided one can be cancelled",
        metadata=status_metadata(tx),
    )


def _ignore(tx: Transaction, _event: Event, _now: float) -> Step:
    return tx, ()


def _refuse_other_decision(tx: Transaction, _event: Event, _now: float) -> Step:
    if not _is_decision_durable(tx):
        return tx, ()
    raise DecisionConflict(
        f"the transaction is {tx.state.name}; a decision never changes",
        metadata=status_metadata(tx),
    )


def _refuse_branch(tx: Transaction, event: BranchAdded, _now: float) -> Step:
    """Answer a repeated branch whose Try has an outcome; refuse any other as too late."""
    index = _find(tx, event.spec)
    if not _is_decision_durable(tx):
        return tx, ()
    if index is None or tx.branches[index].tried is TryState.UNKNOWN:
        raise AlreadyDecided(
            f"the transaction is {tx.state.name}; no branch can join any more",
            metadata=status_metadata(tx),
        )
    return tx, (BranchRegistered(index), BranchTried(index))


def _is_decision_durable(tx: Transaction) -> bool:
    """Return whether the decision is durable. Until it is, requests wait for `Decided`."""
    return tx.saved_state is not None and tx.saved_state.decided


def status_metadata(tx: Transaction) -> dict[str, str]:
    """Return the status of `tx`, as an error's metadata."""
    return {
        "state": tx.state.name,
        "cancel_reason": tx.cancel_reason.name,
        "cancel_branch_id": tx.cancel_branch_id,
        "cancel_detail": tx.cancel_detail,
    }


_Reaction = Callable[[Transaction, Any, float], Step]

_COMMANDS_AFTER_DECISION: dict[type[Event], _Reaction] = {
    OperatorHold: _hold,
    OperatorRelease: _release,
    OperatorRetry: _retry,
    OperatorCancel: _refuse_cancel,
    OperatorResolve: _resolve_branch,
}
_COMMANDS_AFTER_END: dict[type[Event], _Reaction] = dict.fromkeys(_COMMANDS_AFTER_DECISION, _refuse_ended)

# What each state does with each event. Begun and Resumed cannot come later than first.
_CONFIRM_WAS_DECIDED: dict[type[Event], _Reaction] = {
    Saved: _on_saved,
    BranchAdded: _refuse_branch,
    ConfirmRequested: _ignore,
    CancelRequested: _refuse_other_decision,
    Woken: _ignore,
}
_CANCEL_WAS_DECIDED: dict[type[Event], _Reaction] = {
    Saved: _on_saved,
    BranchAdded: _refuse_branch,
    ConfirmRequested: _refuse_other_decision,
    CancelRequested: _ignore,
    Woken: _ignore,
}
_REACTIONS: Mapping[TransactionState, Mapping[type[Event], _Reaction]] = {
    TransactionState.TRYING: {
        Begun: _begin,
        Saved: _on_saved,
        BranchAdded: _add_branch,
        CallCompleted: _on_try_answered,
        ConfirmRequested: _request_confirm,
        CancelRequested: _request_cancel,
        Woken: _wake,
        Resumed: _resume_trying,
        OperatorHold: _hold,
        OperatorRelease: _release,
        OperatorRetry: _refuse_undecided,
        OperatorCancel: _cancel_by_operator,
        OperatorResolve: _refuse_undecided,
    },
    TransactionState.CONFIRMING: {
        **_CONFIRM_WAS_DECIDED,
        **_COMMANDS_AFTER_DECISION,
        CallCompleted: _on_phase_two_answered,
        Resumed: _resume_phase_two,
    },
    TransactionState.CANCELLING: {
        **_CANCEL_WAS_DECIDED,
        **_COMMANDS_AFTER_DECISION,
        CallCompleted: _on_phase_two_answered,
        Resumed: _resume_phase_two,
    },
    TransactionState.CONFIRMED: {**_CONFIRM_WAS_DECIDED, **_COMMANDS_AFTER_END, CallCompleted: _ignore},
    TransactionState.CANCELLED: {**_CANCEL_WAS_DECIDED, **_COMMANDS_AFTER_END, CallCompleted: _ignore},
}
