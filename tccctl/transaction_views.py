"""Views of transactions. Pure: messages and the present time go in, blocks come out."""

import json
from collections.abc import Iterator, Sequence

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.blocks import Block, Cell, Column, Facts, Table, TextBlock, cell
from tccctl.formatting import ago, due, duration, enum_name, instant, seconds_of
from tccctl.payloads import PayloadReader
from tccctl.proposals import command_line
from tccctl.records import branch_key

_STATE_STYLES = {
    "TRYING": "cyan",
    "CONFIRMING": "yellow",
    "CANCELLING": "yellow",
    "CONFIRMED": "green",
    "CANCELLED": "blue",
}
_FLAG_STYLE = "bold red"


def state_name(state: "common.TransactionState | int") -> str:
    """Return the state's name, for example "CONFIRMING"."""
    return enum_name(common.TransactionState.DESCRIPTOR, state)


def flags(transaction: common.Transaction) -> list[str]:
    """Return the flags of a transaction that need attention."""
    holding = {
        "stuck": transaction.stuck,
        "quarantined": bool(transaction.quarantine_reason),
        "held": transaction.held,
        "heuristic": transaction.heuristic,
        "MIXED OUTCOME": transaction.mixed_outcome,
    }
    return [flag for flag, holds in holding.items() if holds]


def brief(transaction: common.Transaction) -> str:
    """Return a summary, for example "CONFIRMING, stuck, version 12"."""
    return ", ".join([state_name(transaction.state), *flags(transaction), f"version {transaction.version}"])


def transaction_table(transactions: Sequence[common.Transaction], now_s: float) -> Table:
    """Return a table with one line per transaction."""
    columns = (
        Column("GID"),
        Column("STATE"),
        Column("FLAGS"),
        Column("AGE", right=True, optional=1),
        Column("INITIATOR", optional=3),
        Column("PARTICIPANTS", flexible=True, optional=2),
        Column("VERSION", wide=True, right=True),
        Column("BEGAN", wide=True),
        Column("EXPIRES", wide=True),
        Column("OWNER", wide=True),
        Column("LABELS", wide=True),
    )
    rows = [_transaction_row(transaction, now_s) for transaction in transactions]
    return Table(columns=columns, rows=rows, empty="no transactions found")


def transaction_blocks(
    reply: admin.InspectTransactionResponse, payloads: PayloadReader, now_s: float
) -> list[Block]:
    """Return everything about one transaction except its history."""
    transaction = reply.transaction
    blocks: list[Block] = [
        Facts(list(_facts(transaction, reply.owner_name, now_s))),
        TextBlock(),
        _branch_table(transaction.branches, now_s),
    ]
    payload_facts = list(_payload_facts(transaction.branches, payloads))
    if payload_facts:
        blocks += [TextBlock(), Facts(payload_facts)]
    return blocks


def timeline_blocks(reply: admin.InspectTransactionResponse) -> list[Block]:
    """Return the history, oldest first, with the time since the begin."""
    columns = (
        Column("AT", optional=4),
        Column("AFTER", right=True),
        Column("WHAT"),
        Column("BRANCH", optional=1),
        Column("BY", optional=3),
        Column("TIMES", right=True, optional=2),
        Column("DETAIL", characters_max=60, flexible=True),
    )
    began_s = seconds_of(reply.transaction.created_at)
    rows = [_history_row(entry, began_s) for entry in reply.history]
    transaction = reply.transaction
    return [
        Table(columns=columns, rows=rows, empty="no history is recorded"),
        TextBlock(),
        TextBlock(f"{transaction.gid} is {brief(transaction)}", _style(transaction)),
    ]


def explanation_blocks(explanation: admin.ExplainTransactionResponse, now_s: float) -> list[Block]:
    """Return why a transaction has not ended, and what would help."""
    blocks: list[Block] = [TextBlock(explanation.summary, "bold"), TextBlock()]
    blocks.append(Facts(list(_explanation_facts(explanation, now_s))))
    for branch in explanation.branches:
        blocks += [TextBlock(), *_branch_explanation(branch, now_s)]
    advice = [TextBlock(f"  {number}. {words}") for number, words in enumerate(explanation.advice, 1)]
    if advice:
        blocks += [TextBlock(), TextBlock("What would help:", "bold"), *advice]
    commands = next_commands(explanation)
    if commands:
        blocks += [
            TextBlock(),
            TextBlock("Commands:", "bold"),
            *(TextBlock(f"  {line}", "green") for line in commands),
        ]
    return blocks


def next_commands(explanation: admin.ExplainTransactionResponse) -> list[str]:
    """Return commands that may be next, most promising first."""
    gid, why = explanation.gid, ("--reason", "WHY")
    options = ("--version", str(explanation.version), *why)
    paused = [branch.participant for branch in explanation.branches if branch.paused]
    decided = explanation.state in {
        common.TRANSACTION_STATE_CONFIRMING,
        common.TRANSACTION_STATE_CANCELLING,
    }
    checks = [branch for branch in explanation.branches if branch.operation == "CHECK"]
    lines = [
        command_line("tccctl", "participant", "resume", arguments=[name], options=why)
        for name in dict.fromkeys(paused)
    ]
    if explanation.held:
        lines.append(command_line("tccctl", "tx", "release", arguments=[gid], options=options))
    elif (decided or checks) and not paused:
        lines.append(command_line("tccctl", "tx", "retry", arguments=[gid], options=options))
    if explanation.state == common.TRANSACTION_STATE_TRYING:
        lines.append(command_line("tccctl", "tx", "cancel", arguments=[gid], options=options))
    if explanation.stuck and (decided or checks):
        lines += [
            command_line(
                *("tccctl", "tx", "resolve"), arguments=[gid, branch.branch_id, outcome], options=options
            )
            for branch in (explanation.branches if decided else checks)
            for outcome in _outcomes(explanation)
        ]
    return lines


def _outcomes(explanation: admin.ExplainTransactionResponse) -> list[str]:
    """Return the outcomes of a branch that an operator may record: before the decision, either."""
    if explanation.state == common.TRANSACTION_STATE_CONFIRMING:
        return ["confirmed"]
    if explanation.state == common.TRANSACTION_STATE_CANCELLING:
        return ["cancelled"]
    return ["confirmed", "cancelled"]


def _transaction_row(transaction: common.Transaction, now_s: float) -> list[Cell]:
    participants = dict.fromkeys(branch.spec.participant for branch in transaction.branches)
    return [
        cell(transaction.gid),
        _state_cell(transaction),
        cell(", ".join(flags(transaction)), _FLAG_STYLE),
        cell(duration(now_s - seconds_of(transaction.created_at))),
        cell(transaction.initiator),
        cell(", ".join(participants)),
        cell(transaction.version),
        cell(instant(transaction.created_at)),
        cell(instant(transaction.expires_at)),
        cell(transaction.owner),
        cell(_labels(transaction)),
    ]


def _facts(transaction: common.Transaction, owner_name: str, now_s: float) -> Iterator[tuple[str, Cell]]:
    yield "transaction", cell(transaction.gid, "bold")
    yield "state", _state_cell(transaction)
    yield "flags", cell(", ".join(flags(transaction)), _FLAG_STYLE)
    if transaction.quarantine_reason:
        yield "quarantined because", cell(transaction.quarantine_reason)
    if transaction.cancel_reason:
        trying = transaction.state == common.TRANSACTION_STATE_TRYING
        yield "to be cancelled" if trying else "cancelled because", cell(_cancel_text(transaction))
    yield "initiator", cell(transaction.initiator)
    yield "labels", cell(_labels(transaction))
    if transaction.trace_id:
        yield "trace", cell(transaction.trace_id)
    for name, moment in (
        ("began", transaction.created_at),
        ("expires", transaction.expires_at),
        ("decided", transaction.decided_at),
        ("ended", transaction.ended_at),
    ):
        when = instant(moment)
        yield name, cell(f"{when} ({ago(moment, now_s)})" if when != "-" else when)
    yield "owner", cell(owner_name or transaction.owner or "none")
    yield "version", cell(transaction.version)


def _cancel_text(transaction: common.Transaction) -> str:
    reason = enum_name(common.CancelReason.DESCRIPTOR, transaction.cancel_reason)
    timed_out = transaction.cancel_reason == common.CANCEL_REASON_EXPIRED
    at = f"while branch {transaction.cancel_branch_id} kept failing" if timed_out else ""
    at = at or f"by branch {transaction.cancel_branch_id}"
    detail = f"({transaction.cancel_detail})" if transaction.cancel_detail else ""
    words = " ".join(filter(None, (reason, at if transaction.cancel_branch_id else "", detail)))
    return f"{words}: {transaction.cancel_message}" if transaction.cancel_message else words


def _branch_table(branches: Sequence[common.Branch], now_s: float) -> Table:
    # Most transactions have one kind of branch, and nothing to say of it.
    with_kinds = any(branch.spec.kind > common.BRANCH_KIND_TCC for branch in branches)
    columns = (
        Column("BRANCH"),
        *([Column("KIND")] if with_kinds else []),
        Column("PARTICIPANT", optional=4),
        Column("ACTION", optional=5),
        Column("STAGE", wide=True, right=True),
        Column("STATE"),
        Column("FAILED", right=True, optional=3),
        Column("NEXT", optional=2),
        Column("LAST ERROR", characters_max=40, flexible=True, optional=1),
        Column("HEURISTIC OUTCOME", flexible=True, optional=1),
    )
    rows = [
        [
            cell(branch.spec.branch_id),
            *([cell(_kind_text(branch))] if with_kinds else []),
            cell(branch.spec.participant),
            cell(branch.spec.action),
            cell(branch.spec.stage),
            cell(enum_name(common.BranchState.DESCRIPTOR, branch.state)),
            cell(branch.attempts, _FLAG_STYLE if branch.attempts else ""),
            cell(due(branch.next_attempt_at, now_s)),
            cell(branch.last_error, "red"),
            cell(_heuristic_outcome(branch), _FLAG_STYLE),
        ]
        for branch in branches
    ]
    return Table(columns=columns, rows=rows, empty="the transaction has no branches")


def _kind_text(branch: common.Branch) -> str:
    kind = enum_name(common.BranchKind.DESCRIPTOR, branch.spec.kind)
    return f"{kind}, check-back" if branch.check_back else kind


def _heuristic_outcome(branch: common.Branch) -> str:
    outcome = enum_name(common.HeuristicOutcome.DESCRIPTOR, branch.heuristic_outcome)
    return f"{outcome}: {branch.heuristic_reason}" if outcome else ""


def _payload_facts(branches: Sequence[common.Branch], payloads: PayloadReader) -> Iterator[tuple[str, Cell]]:
    for branch in branches:
        key = branch_key(branch.spec)
        payload = payloads.read(branch.spec.payload, branch.spec.content_type, key=key)
        if payload is not None:
            yield f"payload of {branch.spec.branch_id}", cell(json.dumps(payload, ensure_ascii=False))
        result = payloads.read(branch.result, branch.result_content_type, key=f"{key}/result")
        if result is not None:
            yield f"result of {branch.spec.branch_id}", cell(json.dumps(result, ensure_ascii=False))


def _history_row(entry: admin.HistoryEntry, began_s: float) -> list[Cell]:
    kind = enum_name(admin.HistoryKind.DESCRIPTOR, entry.kind)
    what = kind.lower().replace("_", " ")
    if entry.operation:
        what = f"{entry.operation} failed" if kind == "CALL_FAILED" else f"{what} {entry.operation}"
    where = f"{entry.branch_id} at {entry.participant}" if entry.participant else entry.branch_id
    bad = kind in {"CALL_FAILED", "STUCK"}
    return [
        cell(instant(entry.at)),
        cell(f"+{duration(seconds_of(entry.at) - began_s)}"),
        cell(what, "red" if bad else ""),
        cell(where),
        cell(entry.actor),
        cell(_times(entry)),
        cell(entry.detail),
    ]


def _times(entry: admin.HistoryEntry) -> str:
    if entry.count <= 1:
        return ""
    lasted = seconds_of(entry.last_at) - seconds_of(entry.at)
    return f"{entry.count} in {duration(lasted)}" if entry.HasField("last_at") else str(entry.count)


def _explanation_facts(
    explanation: admin.ExplainTransactionResponse, now_s: float
) -> Iterator[tuple[str, Cell]]:
    state = state_name(explanation.state)
    holding = {"stuck": explanation.stuck, "held": explanation.held}
    yield "transaction", cell(explanation.gid, "bold")
    yield (
        "state",
        cell(
            ", ".join([state, *(flag for flag, holds in holding.items() if holds)]),
            _STATE_STYLES.get(state, ""),
        ),
    )
    owner = explanation.owner_name or explanation.owner
    dead = "" if explanation.owner_alive else ", whose lease has expired"
    yield (
        "owner",
        cell(f"{owner}{dead}" if owner else "none", "" if not dead or not owner else "red"),
    )
    if explanation.HasField("next_attempt_at"):
        yield "next attempt", cell(due(explanation.next_attempt_at, now_s))
    yield "version", cell(explanation.version)


def _branch_explanation(branch: admin.BranchExplanation, now_s: float) -> Iterator[Block]:
    yield TextBlock(
        f"Branch {branch.branch_id}: {branch.operation} of {branch.action} at {branch.participant}", "bold"
    )
    yield TextBlock(f"  {branch.summary}")
    facts: list[tuple[str, Cell]] = []
    # If the calls are the problem, the summary covers them.
    if branch.last_error not in branch.summary:
        facts += [
            ("  failed calls", cell(branch.attempts, "red")),
            ("  last error", cell(branch.last_error, "red")),
        ]
    facts += [
        (f"  seen by {report.coordinator_name or report.coordinator_id}", cell(_seen(report, now_s)))
        for report in branch.reports
    ]
    yield Facts(facts)


def _seen(report: admin.ParticipantReport, now_s: float) -> str:
    breaker = enum_name(admin.BreakerState.DESCRIPTOR, report.breaker).lower().replace("_", "-")
    words = [f"breaker {breaker or 'unknown'}"]
    if report.HasField("probe_at"):
        words.append(f"probe {due(report.probe_at, now_s)}")
    words.append(f"{report.consecutive_failures} consecutive failures")
    return ", ".join(words)


def _labels(transaction: common.Transaction) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(transaction.labels.items()))


def _style(transaction: common.Transaction) -> str:
    return _STATE_STYLES.get(state_name(transaction.state), "")


def _state_cell(transaction: common.Transaction) -> Cell:
    return cell(state_name(transaction.state), _style(transaction))
