"""Explain why a transaction has not ended, and what would help: facts in, text out. Pure."""

from collections.abc import Mapping, Sequence

from coordinator.api.initiator import replies
from coordinator.api.operator import replies as admin_replies
from coordinator.core.machine import PHASE_TWO, check_back_index, reason_and_message
from coordinator.core.model import Branch, Operation, Transaction, TransactionState, TryState
from coordinator.ports.log import Record
from coordinator.ports.operator_log import CoordinatorRecord, ParticipantRecord
from tcc.admin.v1 import admin_pb2 as pb

# What a participant returns for a Confirm without a row.
_NOT_TRIED = "NOT_TRIED"


def explain(
    record: Record,
    owned: Transaction | None,
    coordinators: Sequence[CoordinatorRecord],
    acted_on: Mapping[str, ParticipantRecord],
    now: float,
) -> pb.ExplainTransactionResponse:
    """Explain a transaction. `now`: seconds since the Unix epoch, by the log's clock.

    Trys are saved only with the decision, or with a check-back branch. Before that, only the coordinator
    that drives them knows their state. `owned`: the transaction as this process drives it, if it does.
    """
    tx = record.tx
    owner = next((one for one in coordinators if one.id == record.owner), None)
    here = owned is not None and owned.state is tx.state
    known = owned.branches if owned is not None and here else tx.branches
    log_knows = tx.state is not TransactionState.TRYING or check_back_index(tx) is not None
    asked = "" if here or log_knows else _name(record, owner)
    branches = [
        _branch(_operation(tx, branch, now), branch, coordinators, acted_on, now=now, asked=asked)
        for branch in known
        if not _is_settled(tx.state, branch)
    ]
    reply = pb.ExplainTransactionResponse(
        gid=tx.gid,
        state=replies.transaction(record, with_payloads=False).state,
        version=tx.version,
        branches=branches,
        owner=record.owner or "",
        owner_name=owner.name if owner else "",
        owner_alive=bool(owner and owner.alive),
        next_attempt_at=replies.timestamp(_next_attempt(record)),
        stuck=tx.stuck,
        held=tx.held,
    )
    reply.summary = _summary(record, reply, now, asked)
    reply.advice.extend(_advice(record, reply, now))
    return reply


def _name(record: Record, owner: CoordinatorRecord | None) -> str:
    """Return the name of the coordinator that drives it; empty if none does."""
    return owner.name if owner else record.owner or ""


def _operation(tx: Transaction, branch: Branch, now: float) -> Operation:
    """Return the call that the branch waits for."""
    if branch.spec.check_back and not tx.state.decided and (tx.cancel_reason or now >= tx.expires_at):
        return Operation.CHECK
    return PHASE_TWO.get(tx.state, Operation.TRY)


def _is_settled(state: TransactionState, branch: Branch) -> bool:
    if state is TransactionState.TRYING:
        return branch.tried is TryState.SUCCEEDED
    return branch.done


def _next_attempt(record: Record) -> float | None:
    tx = record.tx
    return tx.next_attempt_at if tx.next_attempt_at and not tx.held and not tx.state.ended else None


def _branch(
    operation: Operation,
    branch: Branch,
    coordinators: Sequence[CoordinatorRecord],
    acted_on: Mapping[str, ParticipantRecord],
    *,
    now: float,
    asked: str,
) -> pb.BranchExplanation:
    name = branch.spec.participant
    reports = admin_replies.reports(name, coordinators)
    explained = pb.BranchExplanation(
        branch_id=branch.spec.branch_id,
        participant=name,
        action=branch.spec.action,
        operation=operation.name,
        attempts=branch.attempts,
        last_error=branch.last_error,
        next_attempt_at=replies.timestamp(branch.next_attempt_at or None),
        reports=reports,
        paused=name in acted_on and acted_on[name].paused,
        configured=bool(reports),
    )
    explained.summary = _branch_summary(branch, explained, now, asked)
    return explained


def _branch_summary(branch: Branch, explained: pb.BranchExplanation, now: float, asked: str) -> str:
    """`asked`: the only coordinator that knows the state of the Try; empty: the log knows it."""
    call, name = explained.operation.capitalize(), explained.participant
    if branch.spec.check_back and call == "Try":
        return f"the initiator has not confirmed yet; {name} is asked when the transaction expires"
    if not explained.configured:
        return f"no live coordinator is configured with participant {name}"
    if explained.paused:
        return f"participant {name} is paused by an operator; {call} waits"
    if branch.spec.tried_by_initiator and call == "Try":
        return (
            f"the initiator registered this branch and calls its Try at {name} itself; "
            "whether it did is not known here before it confirms"
        )
    if asked:
        return f"only coordinator {asked} knows whether {call} at {name} has succeeded"
    if explained.attempts:
        when = f", next attempt {_in(branch.next_attempt_at - now)}" if branch.next_attempt_at else ""
        times = "once" if explained.attempts == 1 else f"{explained.attempts} times"
        return f"{call} at {name} has failed {times}{when}: {explained.last_error}"
    if branch.spec.not_before > now:
        return f"{call} at {name} is due {_in(branch.spec.not_before - now)}, as the initiator asked for"
    if any(report.breaker != pb.BREAKER_STATE_CLOSED for report in explained.reports):
        return f"{call} waits: {name} does not respond and its breaker is open"
    return f"{call} at {name} has not completed yet"


def _summary(record: Record, reply: pb.ExplainTransactionResponse, now: float, asked: str) -> str:
    tx = record.tx
    if record.quarantined:
        return f"quarantined, because its row in the log cannot be used: {record.quarantined}"
    if tx.state.ended:
        why = f", because {admin_replies.cancel_words(tx)}" if tx.cancel_reason else ""
        return f"it has ended: {tx.state.name}" + (" with a mixed outcome" if tx.mixed else "") + why
    if tx.held:
        return "held by an operator; no participant is called until it is released"
    if record.owner and not reply.owner_alive:
        gone = reply.owner_name or record.owner
        return f"its coordinator ({gone}) has died; another one will adopt it soon"
    if not reply.branches and tx.state is TransactionState.TRYING:
        what = "the initiator to confirm" if tx.interactive else "its decision"
        return f"every Try has succeeded; waiting for {what}, until it expires {_in(tx.expires_at - now)}"
    if tx.state is TransactionState.TRYING and len(_of_initiator(record, reply)) == len(reply.branches):
        those = ", ".join(branch.branch_id for branch in reply.branches)
        return (
            f"waiting for the initiator{_named(tx)}, which calls the Try of {those} itself and has neither "
            f"confirmed nor cancelled, until it expires {_in(tx.expires_at - now)}"
        )
    if asked:
        expiry = f"it expires {_in(tx.expires_at - now)}"
        return f"only coordinator {asked}, which drives it, knows which Trys have succeeded; {expiry}"
    waiting = len(reply.branches)
    first = next((b for b in reply.branches if b.attempts or b.paused or not b.configured), None)
    summary = f"{waiting} of {len(tx.branches)} branches {'is' if waiting == 1 else 'are'} not done"
    if first or waiting:
        summary += f"; {(first or reply.branches[0]).summary}"
    return summary


def _advice(record: Record, reply: pb.ExplainTransactionResponse, now: float) -> list[str]:
    tx = record.tx
    if tx.state.ended:
        return []
    advice: list[str] = []
    if tx.held:
        advice.append("release it, if the reason for the hold is gone")
    own = _of_initiator(record, reply)
    checks = [branch for branch in reply.branches if branch.operation == Operation.CHECK.name]
    if checks:
        return advice + _advice_on_check(checks[0], held=tx.held)
    if tx.state is TransactionState.TRYING:
        if own:
            advice.append(f"ask the initiator{_named(tx)} why it has neither confirmed nor cancelled")
        if tx.expires_at > now and check_back_index(tx) is not None:
            advice.append(f"wait: it is decided automatically when it expires {_in(tx.expires_at - now)}")
        elif tx.expires_at > now:
            advice.append(f"wait: it is cancelled automatically when it expires {_in(tx.expires_at - now)}")
        advice.append("cancel it, if its initiator gave up")
        return advice
    for branch in reply.branches:
        own_try = branch.branch_id in own
        advice += [words for words in _branch_advice(branch, own_try=own_try) if words not in advice]
    if not tx.held:
        advice.append("retry it now, when the cause is fixed")
    advice.append(
        "if the participant will never respond: find out the branch's actual outcome there, "
        "and record it as the heuristic outcome"
    )
    return advice


def _of_initiator(record: Record, reply: pb.ExplainTransactionResponse) -> set[str]:
    """Return the unfinished branches whose Try the initiator calls itself."""
    own = {branch.spec.branch_id for branch in record.tx.branches if branch.spec.tried_by_initiator}
    return own & {branch.branch_id for branch in reply.branches}


def _named(tx: Transaction) -> str:
    return f" {tx.initiator}" if tx.initiator else ""


def _advice_on_check(branch: pb.BranchExplanation, *, held: bool) -> list[str]:
    """Return what helps if it is not known whether the initiator's local change was committed."""
    advice = _branch_advice(branch, own_try=True)
    if not held:
        advice.append("retry it now, when the cause is fixed")
    advice.append(
        f"if participant {branch.participant} will never respond: find out whether its local change was "
        f"committed, and record that as the outcome of branch {branch.branch_id}: it is the decision"
    )
    return advice


def _branch_advice(branch: pb.BranchExplanation, *, own_try: bool) -> list[str]:
    """`own_try`: the initiator was to call the branch's Try."""
    name = branch.participant
    if not branch.configured:
        return [f"configure participant {name} at a coordinator"]
    if branch.paused:
        return [f"resume participant {name}"]
    if any(report.breaker != pb.BREAKER_STATE_CLOSED for report in branch.reports):
        targets = sorted({report.target for report in branch.reports})
        return [
            f"check that participant {name} runs and is reachable at {', '.join(targets)}",
            f"once {name} responds, reset its breaker instead of waiting for the next probe",
        ]
    if branch.attempts and reason_and_message(branch.last_error)[0] == _NOT_TRIED:
        why = (
            "its initiator registered it and confirmed, but no Try of it succeeded there"
            if own_try
            else f"the database of {name} is another one or has lost rows since the Try"
        )
        unknown = f"{name} does not know branch {branch.branch_id}: {why}"
        return [
            f"{unknown}; restore the row if it was lost, otherwise nothing is reserved: resolve the branch"
        ]
    if branch.attempts:
        return [f"search the log of participant {name} for: {branch.last_error}"]
    return []


def _in(seconds: float) -> str:
    return f"in {seconds:.1f} s" if seconds > 0 else "now"
