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
8. `core.kinds` says which calls a branch needs. One that needs no call for the decision
   is done with it; if none needs one, the decision's write is at once the end.
9. A check-back branch is registered last, when every other Try has succeeded, and closes
   the list of branches. From then on the initiator may have committed its local change, so
   CANCEL is not decided without an answer: the branch is asked (CHECK) on expiry and
   before a requested cancel. Until it answers, nothing is decided, and the transaction is
   parked between the questions. The initiator's CONFIRM needs no question.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NoReturn

from msgspec.structs import replace

from coordinator.core.backoff import delay_s
from coordinator.core.errors import (
    AlreadyDecided,
    BranchConflict,
    BranchDone,
    BranchNotFound,
    BranchPending,
    CheckBackExists,
    DecisionConflict,
    NotDecided,
    NotInteractive,
    TooManyBranches,
    TransactionEnded,
    TransactionHeld,
    TransactionNotHeld,
    TransactionTooLarge,
    TryPending,
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
    CheckFailed,
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
from coordinator.core.kinds import needs_call, new_branch
from coordinator.core.model import (
    DECISIONS,
    HELD,
    NEVER,
    NOW,
    UNKNOWN_CONTENT_TYPE,
    Branch,
    BranchCall,
    BranchKind,
    BranchSpec,
    CallResult,
    CancelReason,
    Heuristic,
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

# What one write may make of a state: the decision is at once the end if no branch needs a call for it.
REACHABLE: Mapping[TransactionState, frozenset[TransactionState]] = {
    before: frozenset(
        {*ways.values(), *(end for after in ways.values() for end in TRANSITIONS[after].values())}
    )
    for before, ways in TRANSITIONS.items()
}

# The call by which a decided state is carried out.
PHASE_TWO = {state: decision for state, decision in DECISIONS.items() if not state.ended}

# For this long after the expiry, a coordinator leaves the decision to one that knows every participant.
UNKNOWN_GRACE_S = 60.0

# The length to which a participant's error text is cut.
ERROR_CHARACTERS_MAX = 1_000
# The length of a participant's message in replies to the initiator.
CANCEL_MESSAGE_CHARACTERS_MAX = 500

# Each step reads them, and the members of an enumeration are slow to look up.
_TCC, _SAGA = BranchKind.TCC, BranchKind.SAGA
_TRY, _CHECK, _CANCEL = Operation.TRY, Operation.CHECK, Operation.CANCEL
_UNKNOWN, _TRIED = TryState.UNKNOWN, TryState.SUCCEEDED
_SUCCEEDED = OutcomeCode.SUCCEEDED
_TRYING = TransactionState.TRYING

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


def _begin(tx: Transaction, _event: Begun, now: float) -> Step:
    """Write the transaction. If it is whole and needs no Try, its decision is made already."""
    # The first branch tells in most cases.
    first = tx.branches[0].tried if tx.branches and not tx.interactive else _UNKNOWN
    if first and all(branch.tried is _TRIED for branch in tx.branches):
        return _confirm(tx, now)
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
    elif tx.state is _TRYING:
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
    if tx.unknown_participant:
        return (tx, ()) if tx.saving else _park_for_others(tx, tx.unknown_participant, now)
    if now >= tx.expires_at or tx.cancel_reason:
        return _expire(tx, now)
    stages = [branch.spec.stage for branch in tx.branches if branch.tried is not _TRIED]
    if not stages and (tx.confirm_requested or not tx.interactive):
        return _confirm(tx, now)
    return _call_tries(tx, min(stages, default=0), now)


def _call_tries(tx: Transaction, stage: int, now: float) -> Step:
    """Call the Trys of `stage` that are durable, unanswered, due and not in flight."""
    branches = list(tx.branches)
    calls: list[Effect] = []
    wake_at = tx.expires_at
    for index, branch in enumerate(tx.branches[: tx.saved_branches]):
        if branch.tried is not _UNKNOWN or branch.calling or branch.spec.tried_by_initiator:
            continue
        if branch.next_attempt_at > now:
            wake_at = min(wake_at, branch.next_attempt_at)
        elif branch.spec.stage == stage:
            branches[index] = replace(branch, calling=_TRY)
            calls.append(branch_call(tx, index, _TRY))
    if not calls:
        return (tx if wake_at == tx.wake_at else replace(tx, wake_at=wake_at)), ()
    return replace(tx, branches=tuple(branches), wake_at=wake_at), tuple(calls)


def _on_try_answered(tx: Transaction, event: CallCompleted, now: float) -> Step:
    if not is_calling(tx, event.index, event.operation):
        return tx, ()
    if event.operation is _CHECK:
        return _on_check_answered(tx, event, now)
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
        tried=_TRIED,
        calling=None,
        result=answer.result,
        result_content_type=answer.result_content_type,
    )
    tx, effects = _go_on_trying(with_branch(tx, index, branch), now)
    return tx, ((BranchTried(index), *effects) if tx.interactive else effects)


def _leave_to_others(tx: Transaction, event: CallCompleted, now: float) -> Step:
    """Park the transaction for a coordinator that knows the participant.

    Trys in flight become stale; the next owner repeats them. If another write is in flight, the
    transaction is parked as soon as that one is durable. Until then nothing is called.
    """
    branch = _failed(tx.branches[event.index], event, now)
    if _is_unknown_for_good(tx, now):
        return _go_on_trying(with_branch(tx, event.index, branch), now)
    # The next owner need not wait with its call.
    tx = with_branch(tx, event.index, replace(branch, next_attempt_at=NOW))
    return _go_on_trying(replace(tx, unknown_participant=branch.spec.participant), now)


def _is_unknown_for_good(tx: Transaction, now: float) -> bool:
    """Return whether no coordinator that knows the participant has come, long after the expiry."""
    return now >= tx.expires_at + UNKNOWN_GRACE_S


def _park_for_others(tx: Transaction, participant: str, now: float) -> Step:
    branches = tuple(replace(branch, calling=None) if branch.calling else branch for branch in tx.branches)
    return _save(
        replace(tx, branches=branches, next_attempt_at=now, waiting_on=participant, unknown_participant="")
    )


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
    new_messages = [spec for spec in event.messages if _find(tx, spec) is None]
    if index is not None:
        messages = sum(branch.spec.kind is BranchKind.MESSAGE for branch in tx.branches)
        if event.spec.check_back and (new_messages or messages != len(event.messages)):
            raise BranchConflict(f"branch {event.spec.branch_id!r} exists with other messages")
        return _repeat_branch(tx, index, now)
    if tx.confirm_requested:
        raise AlreadyDecided("CONFIRM was asked for; no branch can join any more")
    if now >= tx.expires_at:
        return _expire(tx, now)
    if event.spec.check_back:
        _refuse_early_check_back(tx)
        tx = _vouched_for(tx)
    return _save(_with_branches(tx, (*new_messages, event.spec), event))


def _refuse_early_check_back(tx: Transaction) -> None:
    """The check-back branch alone can decide CONFIRM, so every other Try has to have succeeded before."""
    for branch in tx.branches:
        if branch.tried is not TryState.SUCCEEDED and not branch.spec.tried_by_initiator:
            raise TryPending(f"the Try of branch {branch.spec.branch_id!r} has not succeeded yet")


def _vouched_for(tx: Transaction) -> Transaction:
    """Return `tx` with the Trys that the initiator called itself, and vouches for."""
    branches = tuple(
        replace(branch, tried=TryState.SUCCEEDED) if branch.spec.tried_by_initiator else branch
        for branch in tx.branches
    )
    return replace(tx, branches=branches)


def _with_branches(
    tx: Transaction, specs: tuple[BranchSpec, ...], event: BranchAdded | ConfirmRequested
) -> Transaction:
    """Return `tx` with new branches, within the bounds of the event.

    Raises:
        CheckBackExists, TooManyBranches, TransactionTooLarge
    """
    if check_back_index(tx) is not None:
        raise CheckBackExists("a check-back branch was registered; no branch can join any more")
    if len(tx.branches) + len(specs) > event.branches_max:
        raise TooManyBranches(f"at most {event.branches_max} branches")
    bytes_before = sum(len(branch.spec.payload) for branch in tx.branches)
    if bytes_before + sum(len(spec.payload) for spec in specs) > event.transaction_bytes_max:
        raise TransactionTooLarge(
            f"payloads of a transaction may hold at most {event.transaction_bytes_max} bytes"
        )
    return replace(tx, branches=(*tx.branches, *map(new_branch, specs)))


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


def _request_confirm(tx: Transaction, event: ConfirmRequested, now: float) -> Step:
    if not tx.interactive:
        raise NotInteractive("this transaction is decided by the coordinator alone")
    _refuse_if_held(tx)
    if new := tuple(spec for spec in event.messages if _find(tx, spec) is None):
        if tx.confirm_requested:
            raise BranchPending("CONFIRM was asked for without this message", retry_after_s=0.05)
        tx = _with_branches(tx, new, event)
    return _go_on_trying(replace(_vouched_for(tx), confirm_requested=True), now)


def _repeat_confirm(tx: Transaction, event: ConfirmRequested, _now: float) -> Step:
    """Accept what was decided already, if it is the same request: no message joins any more."""
    for spec in event.messages:
        if _find(tx, spec) is not None:
            continue
        what = f"CONFIRM was asked for without the message {spec.branch_id!r}"
        if not _is_decision_durable(tx):
            raise BranchPending(what, retry_after_s=0.05)
        raise BranchConflict(what)
    return tx, ()


def _request_cancel(tx: Transaction, event: CancelRequested, now: float) -> Step:
    _refuse_if_held(tx)
    if check_back_index(tx) is None:
        return _cancel(tx, Trigger.CANCEL_REQUESTED, detail=event.detail)
    return _go_on_trying(_asked_to_cancel(tx, event.detail), now)


def _refuse_if_held(tx: Transaction) -> None:
    if tx.held:
        raise TransactionHeld("an operator holds the transaction", metadata=status_metadata(tx))


def _wake(tx: Transaction, _event: Woken, now: float) -> Step:
    return _go_on_trying(tx, now)


# --- check-back -----------------------------------------------------------


def check_back_index(tx: Transaction) -> int | None:
    """Return the index of the branch that decides if the initiator does not; None: there is none."""
    return next((index for index, branch in enumerate(tx.branches) if branch.spec.check_back), None)


def _asked_to_cancel(tx: Transaction, detail: str) -> Transaction:
    """Return `tx` with the wish to cancel, about which its check-back branch is asked at once."""
    branches = tuple(
        replace(branch, next_attempt_at=NOW) if branch.spec.check_back else branch for branch in tx.branches
    )
    detail = bounded_text(detail, ERROR_CHARACTERS_MAX)
    return replace(tx, branches=branches, cancel_reason=CancelReason.REQUESTED, cancel_detail=detail)


def _go_on_asking(tx: Transaction, index: int, now: float) -> Step:
    """Ask the check-back branch if it is due. If the initiator has vouched for it, there is no question."""
    branch = tx.branches[index]
    if branch.tried is TryState.SUCCEEDED:
        return _confirm(tx, now)
    if index >= tx.saved_branches or branch.calling or tx.next_attempt_at:
        return tx, ()
    if branch.next_attempt_at > now:
        return replace(tx, wake_at=branch.next_attempt_at), ()
    tx = with_branch(tx, index, replace(branch, calling=Operation.CHECK))
    return replace(tx, wake_at=NEVER), (branch_call(tx, index, Operation.CHECK),)


def _on_check_answered(tx: Transaction, event: CallCompleted, now: float) -> Step:
    branch, answer = tx.branches[event.index], event.answer
    match answer.code:
        case OutcomeCode.SUCCEEDED:
            branch = replace(branch, tried=TryState.SUCCEEDED, calling=None)
            return _confirm(with_branch(tx, event.index, branch), now)
        case OutcomeCode.REJECTED:
            branch = replace(branch, tried=TryState.REJECTED, calling=None, last_error=error_text(answer))
            requested = tx.cancel_reason is CancelReason.REQUESTED
            tx = with_branch(tx, event.index, branch)
            if requested:
                return _cancel(tx, Trigger.CANCEL_REQUESTED, detail=tx.cancel_detail)
            return _cancel(
                tx,
                Trigger.EXPIRED,
                branch_id=branch.spec.branch_id,
                detail=answer.reason,
                message=answer.message,
            )
        case OutcomeCode.FAILED:
            return _on_check_failed(tx, event, now)


def _on_check_failed(tx: Transaction, event: CallCompleted, now: float) -> Step:
    """Park the transaction until the next question. Nothing else can be written in the meantime."""
    assert not tx.saving, "the list of branches is closed, and nothing is decided"
    branch = _failed(tx.branches[event.index], event, now)
    tx = with_branch(tx, event.index, branch)
    notifications: tuple[Effect, ...] = (CheckFailed(event.index),)
    if not tx.stuck and _is_stuck(branch, event):
        tx, notifications = replace(tx, stuck=True), (*notifications, BecameStuck(event.index))
    tx, effects = _save(
        replace(tx, next_attempt_at=branch.next_attempt_at, waiting_on=branch.spec.participant)
    )
    return tx, notifications + effects


# --- the decision ---------------------------------------------------------


def _confirm(tx: Transaction, now: float) -> Step:
    if tx.cancel_reason:
        tx = replace(tx, cancel_reason=CancelReason.NONE, cancel_detail="")
    return _decide(tx, Trigger.EVERY_TRY_SUCCEEDED, now)


def _expire(tx: Transaction, now: float) -> Step:
    """Cancel because of the expiry, and of the Try that kept failing. A check-back branch is asked."""
    index = check_back_index(tx)
    if index is not None:
        return _go_on_asking(tx, index, now)
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


def _decide(tx: Transaction, trigger: Trigger, now: float = NOW) -> Step:
    """Make the decision. Trys that are still in flight become stale. `now` matters for CONFIRM alone."""
    state = TRANSITIONS[tx.state][trigger]
    branches = tuple(
        [
            _decided(branch, DECISIONS[state], now)
            if branch.calling
            or branch.attempts
            or branch.next_attempt_at != NOW
            or branch.spec.kind is not _TCC
            else branch
            for branch in tx.branches
        ]
    )
    # The first branch tells in most cases.
    if (not branches or branches[0].done) and all(branch.done for branch in branches):
        state = TRANSITIONS[state][Trigger.EVERY_BRANCH_DONE]
    return _save(replace(tx, state=state, branches=branches, stuck=False, wake_at=NEVER))


def _decided(branch: Branch, decision: Operation, now: float) -> Branch:
    """Return the branch as phase two finds it: done, or to be called now or later for the first time."""
    done = branch.done or not needs_call(branch.spec, decision)
    return replace(
        branch,
        calling=None,
        attempts=0,
        next_attempt_at=NOW if done else _first_attempt_at(branch.spec, now),
        done=done,
    )


def _first_attempt_at(spec: BranchSpec, now: float) -> float:
    return spec.not_before if spec.not_before > now else NOW


# --- phase two ------------------------------------------------------------


def _go_on_with_phase_two(tx: Transaction) -> Step:
    """Call every branch that is due; when none is in flight, end or park the transaction."""
    operation = PHASE_TWO[tx.state]
    calls: list[Effect] = []
    branches = list(tx.branches)
    in_flight = False
    all_done = True
    is_cancel = operation is _CANCEL
    for index, branch in enumerate(tx.branches):
        if branch.done:
            continue
        all_done = False
        if (
            branch.calling is None
            and branch.next_attempt_at == NOW
            and not (is_cancel and _waits_for_later_stage(tx, branch))
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
    """Return whether a Cancel has to wait: that of a SAGA for SAGAs, or where the participant asks for it."""
    spec = branch.spec
    if spec.cancel_in_stage_order:
        return any(not other.done and other.spec.stage > spec.stage for other in tx.branches)
    return spec.kind is _SAGA and any(
        not other.done and other.spec.kind is _SAGA and other.spec.stage > spec.stage for other in tx.branches
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
    if event.answer.code is _SUCCEEDED:
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
        replace(branch, attempts=max(1, branch.attempts))
        if branch.tried is TryState.UNKNOWN and not branch.spec.tried_by_initiator
        else branch
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
    _refuse_retry_if_held(tx)
    branches = tuple(
        branch if branch.done else replace(branch, next_attempt_at=_first_attempt_at(branch.spec, now))
        for branch in tx.branches
    )
    return _save(_parked(replace(tx, branches=branches), now))


def _retry_check(tx: Transaction, event: OperatorRetry, now: float) -> Step:
    """Ask a check-back branch again now, if it has been asked."""
    index = check_back_index(tx)
    if index is None or (now < tx.expires_at and not tx.cancel_reason):
        _refuse_undecided(tx, event, now)
    _refuse_retry_if_held(tx)
    branch = replace(tx.branches[index], next_attempt_at=NOW)
    return _save(_parked(with_branch(tx, index, branch), now))


def _refuse_retry_if_held(tx: Transaction) -> None:
    if tx.held:
        raise TransactionHeld("the transaction is held; release it instead", metadata=status_metadata(tx))


def _cancel_by_operator(tx: Transaction, event: OperatorCancel, now: float) -> Step:
    tx = _parked(tx, now)
    if check_back_index(tx) is not None:
        return _save(_asked_to_cancel(tx, event.detail))
    return _cancel(tx, Trigger.CANCEL_REQUESTED, detail=event.detail)


def _resolve_check_back(tx: Transaction, event: OperatorResolve, now: float) -> Step:
    """Decide by an operator's word: the check-back branch will never answer."""
    index = check_back_index(tx)
    if index is None or tx.branches[index].spec.branch_id != event.branch_id:
        _refuse_undecided(tx, event, now)
    branch = _resolved(tx.branches[index], event)
    confirmed = event.outcome is Heuristic.CONFIRMED
    branch = replace(branch, tried=TryState.SUCCEEDED if confirmed else TryState.FAILED)
    tx = with_branch(tx if tx.held else _parked(tx, now), index, branch)
    if confirmed:
        return _confirm(tx, now)
    return _cancel(tx, Trigger.CANCEL_REQUESTED, branch_id=event.branch_id, detail=event.reason)


def _resolve_branch(tx: Transaction, event: OperatorResolve, now: float) -> Step:
    index = next((i for i, b in enumerate(tx.branches) if b.spec.branch_id == event.branch_id), None)
    if index is None:
        raise BranchNotFound(f"no branch {event.branch_id!r}", metadata={"branch_id": event.branch_id})
    if tx.branches[index].done:
        raise BranchDone(f"branch {event.branch_id!r} is done", metadata={"branch_id": event.branch_id})
    tx = with_branch(tx, index, _resolved(tx.branches[index], event))
    if all(branch.done for branch in tx.branches):
        return _end(tx)
    return _save(tx if tx.held else _parked(tx, now))


def _resolved(branch: Branch, event: OperatorResolve) -> Branch:
    return replace(
        branch,
        done=True,
        heuristic=event.outcome,
        heuristic_reason=event.reason[:ERROR_CHARACTERS_MAX],
    )


def _parked(tx: Transaction, until: float) -> Transaction:
    return replace(tx, next_attempt_at=until, waiting_on="")


def _refuse_undecided(tx: Transaction, _event: OperatorCommand, _now: float) -> NoReturn:
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
    ConfirmRequested: _repeat_confirm,
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
        OperatorRetry: _retry_check,
        OperatorCancel: _cancel_by_operator,
        OperatorResolve: _resolve_check_back,
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
