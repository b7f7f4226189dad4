"""Bugs of the state machine."""

from functools import partial

from proof.mutants.mutant import Mutant, explore, selection

_FILE = "coordinator/core/machine.py"
_machine = partial(Mutant, file=_FILE)
_CORE = selection(
    "tests/core/test_machine.py",
    "tests/core/test_table.py",
    "tests/core/test_known_bugs_of_other_coordinators.py",
)
_COMMANDS = selection("tests/core/test_operator_commands.py")
_EXPLORER = explore("one branch, no faults")

MUTANTS = (
    _machine(
        name="decision written after the calls leave",
        breaks="a decision is durable before the first phase-two call leaves",
        old="    return _save(replace(tx, state=TRANSITIONS[tx.state][trigger], "
        "branches=branches, wake_at=NEVER))",
        new=(
            "    tx = replace(tx, state=TRANSITIONS[tx.state][trigger], branches=branches, wake_at=NEVER)\n"
            "    tx, calls = _go_on_with_phase_two(tx)\n"
            "    tx, saves = _save(tx)\n"
            "    return tx, calls + saves"
        ),
        check=_EXPLORER,
    ),
    _machine(
        name="Try sent before its branch is written",
        breaks="every branch is durable before its Try leaves",
        old="enumerate(tx.branches[: tx.saved_branches])",
        new="enumerate(tx.branches)",
        check=_CORE,
    ),
    _machine(
        name="CONFIRM before every Try has answered",
        breaks="CONFIRM is decided only when every Try has succeeded",
        old="if not stages and (",
        new="if len(stages) < len(tx.branches) and (",
        check=_CORE,
    ),
    _machine(
        name="rejected Try confirmed",
        breaks="a business no decides CANCEL",
        old="return _on_try_refused(tx, event.index, answer, TryState.REJECTED, Trigger.TRY_REJECTED)",
        new="return _on_try_succeeded(tx, event.index, answer, now)",
        check=_CORE,
    ),
    _machine(
        name="CONFIRM past the expiry",
        breaks="nothing is confirmed after its expiry",
        old="    if now >= tx.expires_at:\n        return _expire(tx)\n    succeeded",
        new="    if now >= tx.expires_at and not tx.branches:\n        return _expire(tx)\n    succeeded",
        check=_CORE,
    ),
    _machine(
        name="expiry ignores the decision",
        breaks="a decision never changes",
        old="    CancelRequested: _refuse_other_decision,\n    Woken: _ignore,",
        new="    CancelRequested: _refuse_other_decision,\n"
        "    Woken: lambda tx, _event, now: (\n"
        "        _save(replace(tx, state=TransactionState.CANCELLING))\n"
        "        if now >= tx.expires_at else (tx, ())\n"
        "    ),",
        check=_CORE,
    ),
    _machine(
        name="Cancel of a confirmed transaction taken in silence",
        breaks="who asks for the other decision is told",
        old="    CancelRequested: _refuse_other_decision,",
        new="    CancelRequested: _ignore,",
        check=_CORE,
    ),
    _machine(
        name="refused because of a decision that a crash may lose",
        breaks="nobody is told of a decision before it is durable",
        old="    if not _is_decision_durable(tx):\n        return tx, ()\n    raise DecisionConflict(",
        new="    raise DecisionConflict(",
        check=_CORE,
    ),
    _machine(
        name="stale answer accepted",
        breaks="an answer counts only while that very call is under way",
        old="return index < len(tx.branches) and tx.branches[index].calling is operation",
        new="return index < len(tx.branches)",
        check=_CORE,
    ),
    _machine(
        name="failed Confirm counts as done",
        breaks="every branch gets the decision; nothing is dropped",
        old="if event.answer.code is OutcomeCode.SUCCEEDED:\n        branch = replace(branch, done=True",
        new="if event.answer.code is OutcomeCode.SUCCEEDED or event.answer.permanent:\n"
        "        branch = replace(branch, done=True",
        check=_CORE,
    ),
    _machine(
        name="given up after it became stuck",
        breaks="phase two never gives up",
        old="        if branch.done:\n            continue\n        all_done = False",
        new="        if branch.done or tx.stuck:\n            continue\n        all_done = False",
        check=_CORE,
    ),
    _machine(
        name="branch whose Try never answered is not cancelled",
        breaks="every branch in the log gets the decision",
        old="        if branch.done:\n            continue\n        all_done = False",
        new="        if branch.done or (\n"
        "            tx.state is TransactionState.CANCELLING and branch.tried is TryState.UNKNOWN):\n"
        "            continue\n        all_done = False",
        check=_CORE,
    ),
    _machine(
        name="alert for a stuck transaction at every failure",
        breaks="an operator is told once",
        old="if not tx.stuck and _is_stuck(",
        new="if _is_stuck(",
        check=_CORE,
    ),
    _machine(
        name="parked until the latest of its branches is due",
        breaks="a failed branch is repeated when it is due",
        old="waiting = min(\n        (b for b",
        new="waiting = max(\n        (b for b",
        check=_CORE,
    ),
    _machine(
        name="stage order ignored",
        breaks="a stage is tried after the one before has succeeded",
        old="elif branch.spec.stage == stage:",
        new="elif branch.spec.stage >= stage:",
        check=_CORE,
    ),
    _machine(
        name="Cancel in stage order instead of in reverse",
        breaks="Cancel runs in reverse stage order where that is asked for",
        old="other.spec.stage > branch.spec.stage",
        new="other.spec.stage < branch.spec.stage",
        check=_CORE,
    ),
    _machine(
        name="breaker burns attempts",
        breaks="a call that never left burns no attempt",
        old="        return replace(branch, calling=None, next_attempt_at=now + answer.retry_after_s,",
        new="        return replace(branch, calling=None, attempts=branch.attempts + 1,"
        " next_attempt_at=now + answer.retry_after_s,",
        check=_CORE,
    ),
    _machine(
        name="an expiry names a branch whose Try succeeded in the end",
        breaks="an initiator is told the branch that kept failing until the expiry",
        old="if b.tried is TryState.UNKNOWN and b.last_error",
        new="if b.last_error",
        check=_CORE,
    ),
    _machine(
        name="the message of a no is dropped",
        breaks="an initiator is told what a participant said beside its reason",
        old="detail=answer.reason, message=answer.message",
        new="detail=answer.reason",
        check=_CORE,
    ),
    _machine(
        name="a cancel message of any length",
        breaks="a participant's words are bounded",
        old="cancel_message=bounded_text(message, CANCEL_MESSAGE_CHARACTERS_MAX)",
        new="cancel_message=message",
        check=_CORE,
    ),
    _machine(
        name="Try repeated after a crash as if it were the first",
        breaks="a participant is told that a Try may have arrived before",
        old="attempts=max(1, branch.attempts)",
        new="attempts=branch.attempts",
        check=_CORE,
    ),
    _machine(
        name="what was found due is judged by the local clock",
        breaks="due times are judged by the log's clock",
        old="due_by = max(\n        now,",
        new="due_by = min(\n        now,",
        check=_CORE,
    ),
    _machine(
        name="a participant's wish for a pause ignored",
        breaks="a participant may ask for a longer pause",
        old="max(answer.retry_after_s, delay_s(attempts, event.policy, event.jitter))",
        new="delay_s(attempts, event.policy, event.jitter)",
        check=_CORE,
    ),
    _machine(
        name="what Try returned is lost",
        breaks="a Try's result reaches Confirm and Cancel",
        old="        result=answer.result,",
        new='        result=b"",',
        check=_CORE,
    ),
    _machine(
        name="two writes of one transaction at once",
        breaks="at most one write is in flight",
        old="    if tx.saving:\n        return tx, ()\n",
        new="",
        check=_CORE,
    ),
    _machine(
        name="branch that joined during a write is never written",
        breaks="every branch is durable before its Try leaves",
        old="if tx.saved_state is not tx.state or tx.saved_branches != len(tx.branches):",
        new="if tx.saved_state is not tx.state:",
        check=_CORE,
    ),
    _machine(
        name="branch joins after CONFIRM was asked for",
        breaks="no branch joins after the decision",
        old="    if tx.confirm_requested:\n        raise AlreadyDecided(",
        new="    if tx.confirm_requested and not tx.branches:\n        raise AlreadyDecided(",
        check=_CORE,
    ),
    _machine(
        name="branch conflict not detected",
        breaks="the same id with different content is refused",
        old="return replace(one, cancel_in_stage_order=False) == replace(other, cancel_in_stage_order=False)",
        new="return one.branch_id == other.branch_id",
        check=_CORE,
    ),
    _machine(
        name="held transaction moved by its initiator",
        breaks="while an operator holds a transaction no initiator moves it",
        old='    if tx.held:\n        raise TransactionHeld("an operator holds',
        new='    if tx.held and tx.state.decided:\n        raise TransactionHeld("an operator holds',
        check=_COMMANDS,
    ),
    _machine(
        name="one resolved branch ends the whole transaction",
        breaks="an operator's word ends one branch",
        old="    if all(branch.done for branch in tx.branches):\n        return _end(tx)",
        new="    if any(branch.done for branch in tx.branches):\n        return _end(tx)",
        check=_COMMANDS,
    ),
    _machine(
        name="heuristic outcome not recorded",
        breaks="mixed outcomes are reported, never hidden",
        old="        heuristic=event.outcome,\n",
        new="",
        check=_COMMANDS,
    ),
    _machine(
        name="resolving a branch lifts the hold",
        breaks="a hold ends when the operator says so",
        old="return _save(tx if tx.held else _parked(tx, now))",
        new="return _save(_parked(tx, now))",
        check=_COMMANDS,
    ),
    Mutant(
        name="pauses without a cap",
        breaks="phase two is repeated at the cap for ever",
        file="coordinator/core/backoff.py",
        old="min(policy.delay_max_s, policy.delay_first_s * 2.0**doublings)",
        new="policy.delay_first_s * 2.0**doublings",
        check=_CORE,
    ),
)
