"""`tccctl reconcile`: compare the barrier rows of participants with the log, and repair."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.progress import Progress

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.blocks import Block, Cell, Column, Table, TextBlock, cell
from tccctl.command import Reason, Yes, command
from tccctl.exit_codes import ExitCode
from tccctl.failures import Failure, UsageFailure
from tccctl.formatting import duration, enum_name, milliseconds_in
from tccctl.proposals import command_line
from tccctl.session import Session, confirmed

_KIND_STYLES = {
    admin.FINDING_KIND_ORPHAN: "yellow",
    admin.FINDING_KIND_LEAK: "yellow",
    admin.FINDING_KIND_MIXED: "bold red",
}
_PEOPLE = "manual"
# After one of these, the next call would fail, too.
_HOPELESS = {ExitCode.UNREACHABLE, ExitCode.INTERRUPTED, ExitCode.TERMINATED, ExitCode.USAGE}

_DURATION_MAX_MS = 36_500 * 86_400_000

# Findings are shown, or written, in pages of this size.
_PAGE_MIN = 1_000


class Ending(StrEnum):
    """The values of `--as`."""

    CONFIRM = "confirm"
    CANCEL = "cancel"


_OPERATIONS = {
    None: common.OPERATION_UNSPECIFIED,
    "confirm": common.OPERATION_CONFIRM,
    "cancel": common.OPERATION_CANCEL,
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "reconcile",
        examples=[
            "tccctl reconcile",
            "tccctl reconcile --participant inventory --min-age 1h --ended-within 1d -o json",
            "tccctl reconcile --repair order-7 stock --participant inventory --reason 'the shop never asked'",
            "tccctl reconcile --repair-all --participant inventory --reason 'the log was restored'",
        ],
    )(reconcile)


def reconcile(
    session: Session,
    *,
    participant: Annotated[
        list[str] | None, typer.Option(help="Only this participant. May be repeated.")
    ] = None,
    min_age: Annotated[
        str, typer.Option(help="Only rows unchanged for this long, for example 5m. Default: as configured.")
    ] = "",
    ended_within: Annotated[
        str,
        typer.Option(help="Check transactions that expired within this time for mixed outcomes; 0s: none."),
    ] = "1h",
    repair: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="GID BRANCH", help="Repair this branch of one --participant."),
    ] = None,
    ending: Annotated[
        Ending | None,
        typer.Option("--as", help="With --repair: the operation, if it is not the proposed one."),
    ] = None,
    payload: Annotated[
        str, typer.Option(help="With --repair: the orphan's payload as JSON, if its action requires one.")
    ] = "",
    repair_all: Annotated[
        bool, typer.Option("--repair-all", help="Repair every finding that has a proposal.")
    ] = False,
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Compare the reservations of participants with the log. Repair differences on command.

    The exit status is 6 if there are findings, and 7 if a participant could not be compared. An orphan
    is an open reservation of a branch that the log does not have. A leak is one of a branch that is done
    in the log. If coordinators with another log call a participant, too, never repair its orphans.
    """
    names = participant or []
    if repair is not None:
        if repair_all or len(names) != 1:
            raise UsageFailure("--repair requires exactly one --participant and excludes --repair-all")
        order = admin.RepairBranchRequest(
            participant=names[0],
            gid=repair[0],
            branch_id=repair[1],
            operation=_OPERATIONS[ending],
            payload=payload.encode(),
            content_type="application/json" if payload else "",
        )
        _repair_one(session, order, reason)
        return
    if ending or payload:
        raise UsageFailure("--as and --payload require --repair")
    request = admin.ReconcileRequest(participants=names)
    if min_age:
        request.min_age.CopyFrom(_duration("--min-age", min_age))
    request.ended_within.CopyFrom(_duration("--ended-within", ended_within))
    comparison = _Comparison()
    pages = comparison.pages(session.stream("Reconcile", request, changes_state=False))
    if repair_all:
        _repair_all(session, list(chain.from_iterable(pages)), comparison, reason, yes=yes)
        return
    session.output.answer_in_pages(
        "findings",
        pages,
        table=_table,
        record=session.record,
        rest=lambda: (
            [*_summary(comparison), *_how_to_repair(comparison)],
            {"participants": [session.record(one) for one in comparison.ended]},
        ),
    )
    if comparison.kinds:
        raise typer.Exit(ExitCode.WRONG)
    _exit_if_not_compared(comparison.ended)


class _Comparison:
    """Summarises a comparison while its findings pass by."""

    def __init__(self) -> None:
        self.kinds: Counter[admin.FindingKind] = Counter()
        # The first finding with a proposed repair.
        self.repairable: admin.Finding | None = None
        self.ended: list[admin.ParticipantReconciliation] = []

    def pages(self, responses: Iterable[admin.ReconcileResponse]) -> Iterator[list[admin.Finding]]:
        """Yield the findings. Responses may be short; a page has enough findings to align its columns."""
        page: list[admin.Finding] = []
        for response in responses:
            for finding in response.findings:
                self._note(finding)
                page.append(finding)
            if response.HasField("ended"):
                self.ended.append(response.ended)
            if len(page) >= _PAGE_MIN:
                yield page
                page = []
        if page:
            yield page

    def _note(self, finding: admin.Finding) -> None:
        self.kinds[finding.kind] += 1
        if finding.repair and self.repairable is None:
            self.repairable = finding


def _repair_one(session: Session, order: admin.RepairBranchRequest, reason: str | None) -> None:
    order.operator_context.CopyFrom(session.operator_context(reason))
    reply = session.do("RepairBranch", order)
    _check(reply)
    session.output.answer([TextBlock(_done(reply))], session.record(reply))


def _repair_all(
    session: Session,
    findings: Sequence[admin.Finding],
    comparison: _Comparison,
    reason: str | None,
    *,
    yes: bool,
) -> None:
    proposed = [finding for finding in findings if finding.repair]
    if not session.output.is_data:
        session.output.show([*([_table(findings)] if findings else []), *_summary(comparison)])
    if not proposed:
        session.output.answer([TextBlock("there is nothing to repair")], {"repaired": [], "failures": []})
        _exit_if_not_compared(comparison.ended)
        return
    operator_context = session.operator_context(reason)
    confirmed(f"Repair {len(proposed)} findings as proposed?", yes=yes, advice="add --yes")
    repaired: list[admin.RepairBranchResponse] = []
    failures: list[tuple[admin.Finding, str]] = []
    console = Console(file=session.output.error)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for finding in progress.track(proposed, description="repair"):
            request = admin.RepairBranchRequest(
                participant=finding.participant,
                gid=finding.gid,
                branch_id=finding.branch_id,
                operation=finding.repair,
                operator_context=operator_context,
            )
            try:
                reply = session.do("RepairBranch", request)
                _check(reply)
            except Failure as failure:
                failures.append((finding, failure.message))
                if failure.code in _HOPELESS:
                    break
            else:
                repaired.append(reply)
    rows = [
        [cell(finding.participant), cell(finding.gid), cell(finding.branch_id), cell(why, "red")]
        for finding, why in failures
    ]
    columns = (
        Column("PARTICIPANT"),
        Column("GID"),
        Column("BRANCH"),
        Column("NOT REPAIRED, BECAUSE", flexible=True),
    )
    table: list[Block] = [Table(columns=columns, rows=rows, empty="")] if rows else []
    data = {
        "repaired": [session.record(reply) for reply in repaired],
        "failures": [session.record(finding) | {"failure": why} for finding, why in failures],
    }
    words = f"{len(repaired)} of {len(proposed)} repaired, {len(proposed) - len(repaired)} not repaired"
    session.output.answer([TextBlock(words), *table], data)
    if failures:
        raise typer.Exit(ExitCode.PARTLY)


def _check(reply: admin.RepairBranchResponse) -> None:
    """Raise Failure if the participant did not execute the repair."""
    outcome = reply.result
    if outcome.code == common.OUTCOME_CODE_SUCCEEDED:
        return
    reason = ": ".join(filter(None, (outcome.reason, outcome.message))) or "it failed"
    advice = "as far as is known, nothing changed; fix the cause, compare again, and repeat the repair"
    if outcome.reason == "PAYLOAD_NEEDED":
        advice = "give the initiator's original payload with --payload; its own log may have it"
    raise Failure(f"{reply.finding.participant} did not execute the repair: {reason}", advice=advice)


def _done(reply: admin.RepairBranchResponse) -> str:
    finding, record = reply.finding, reply.audit_record
    return (
        f"{finding.branch_id} of {finding.gid} at {finding.participant} is repaired "
        f"(audit record {record.sequence})"
    )


def _summary(comparison: _Comparison) -> list[Block]:
    """Return what is printed below the findings."""
    compared = [one for one in comparison.ended if one.outcome == admin.RECONCILIATION_OUTCOME_COMPARED]
    counts = [f"{count} {_kind(kind)}" for kind, count in sorted(comparison.kinds.items())]
    rows = sum(one.rows for one in compared)
    who = ", ".join(one.participant for one in compared) or "no participant"
    blocks: list[Block] = []
    # A participant that was not compared must not appear to agree.
    if compared or counts:
        blocks.append(TextBlock() if counts else _table([]))
        blocks.append(TextBlock(f"{', '.join(counts) or 'no finding'} in {rows} rows of {who}"))
    else:
        blocks.append(TextBlock("no participant could be compared with the log"))
    rest = [one for one in comparison.ended if one.outcome != admin.RECONCILIATION_OUTCOME_COMPARED]
    blocks += [TextBlock(f"not compared: {one.detail}", "yellow") for one in rest]
    return blocks


def _table(findings: Sequence[admin.Finding]) -> Table:
    columns = (
        Column("PARTICIPANT"),
        Column("KIND"),
        Column("GID"),
        Column("BRANCH"),
        Column("ACTION", wide=True),
        Column("IN THE BARRIER", optional=3),
        Column("IN THE LOG", optional=2),
        Column("AGE", right=True, optional=4),
        Column("REPAIR"),
        Column("BECAUSE", characters_max=80, flexible=True, optional=1),
    )
    return Table(columns=columns, rows=list(map(_row, findings)), empty="participants and the log agree")


def _row(finding: admin.Finding) -> list[Cell]:
    state = enum_name(common.TransactionState.DESCRIPTOR, finding.transaction_state)
    repair = enum_name(common.Operation.DESCRIPTOR, finding.repair).lower()
    return [
        cell(finding.participant),
        cell(_kind(finding.kind), _KIND_STYLES.get(finding.kind, "")),
        cell(finding.gid, "bold"),
        cell(finding.branch_id),
        cell(finding.action),
        cell(enum_name(common.BarrierState.DESCRIPTOR, finding.barrier_state)),
        cell(state or "unknown"),
        cell(duration(finding.age.seconds + finding.age.nanos / 1e9)),
        cell(repair or _PEOPLE, "green" if repair else "red"),
        cell(finding.explanation),
    ]


def _kind(kind: "admin.FindingKind") -> str:
    return enum_name(admin.FindingKind.DESCRIPTOR, kind).lower()


def _how_to_repair(comparison: _Comparison) -> list[Block]:
    finding = comparison.repairable
    if finding is None:
        return []
    key = ["--repair", finding.gid, finding.branch_id, "--participant", finding.participant]
    one = command_line("tccctl", "reconcile", options=[*key, "--reason", "WHY"])
    return [
        TextBlock("to repair one finding, or all that have a proposal:"),
        TextBlock(f"  {one}", "green"),
        TextBlock("  tccctl reconcile --repair-all --reason WHY", "green"),
    ]


def _exit_if_not_compared(ended: Sequence[admin.ParticipantReconciliation]) -> None:
    """Exit with PARTLY if a participant could not be compared. Missing support is not a failure."""
    fine = {admin.RECONCILIATION_OUTCOME_COMPARED, admin.RECONCILIATION_OUTCOME_UNSUPPORTED}
    if any(one.outcome not in fine for one in ended):
        raise typer.Exit(ExitCode.PARTLY)


def _duration(option: str, text: str) -> Duration:
    milliseconds = milliseconds_in(text)
    if milliseconds is None or milliseconds > _DURATION_MAX_MS:
        raise UsageFailure(
            f"{option} {text[:40]!r} is not a duration of at most 36500d", advice="use 5m, 1h30m, 0s"
        )
    given = Duration()
    given.FromMilliseconds(milliseconds)
    return given
