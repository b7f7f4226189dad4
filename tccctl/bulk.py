"""One action on every transaction that a filter matches: dry run, confirmation, progress."""

from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.blocks import Block, Column, Table, TextBlock, cell
from tccctl.exit_codes import ExitCode
from tccctl.failures import Failure
from tccctl.formatting import enum_name
from tccctl.proposals import command_line
from tccctl.session import Session, confirmed

_DRY_RUN = "dry run"


def run_bulk(
    session: Session,
    action: "admin.BulkAction",
    filter_: str,
    reason: str | None,
    *,
    dry_run: bool,
    token: str,
    yes: bool,
) -> None:
    """Run a bulk action, or print what it would do.

    Exit with PARTLY if some transactions were not acted on. Raises Failure.
    """
    # A dry run needs no reason, but the contract requires one.
    operator_context = session.operator_context(reason or (_DRY_RUN if dry_run else None))
    request = admin.RunBulkActionRequest(filter=filter_, action=action, operator_context=operator_context)
    if not token:
        plan = _plan(session, request)
        if dry_run or not plan.matched:
            session.output.answer([*_plan_blocks(plan), *_how_to_go_on(plan, request)], session.record(plan))
            return
        if not session.output.is_data:
            session.output.show(_plan_blocks(plan))
        confirmed(
            f"{_verb(action)} {plan.succeeded} transactions?",
            yes=yes,
            advice=f"add --yes, or --token {plan.confirmation_token}",
        )
        token = plan.confirmation_token
    request.confirmation_token = token
    _run(session, request)


def _plan(session: Session, request: admin.RunBulkActionRequest) -> admin.RunBulkActionResponse:
    for plan in session.stream("RunBulkAction", request):
        return plan  # type: ignore[no-any-return]
    raise Failure("the coordinator returned no response")


def _run(session: Session, request: admin.RunBulkActionRequest) -> None:
    failures: list[admin.BulkFailure] = []
    last: admin.RunBulkActionResponse | None = None
    replies: Iterable[Any] = session.stream("RunBulkAction", request)
    console = Console(file=session.output.error)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(_verb(request.action), total=None)
        for last in replies:
            failures += last.failures
            progress.update(task, total=last.matched, completed=last.succeeded + last.failed)
    if last is None or not last.finished:
        raise Failure(
            "the coordinator stopped before the bulk action was complete",
            advice="repeat the dry run: it finds the remaining transactions",
        )
    data = session.record(last) | {"failures": [session.record(failure) for failure in failures]}
    summary = f"{last.succeeded} of {last.matched} transactions done, {last.failed} failed"
    session.output.answer([TextBlock(summary), *_failure_blocks(failures)], data)
    if last.failed:
        raise typer.Exit(ExitCode.PARTLY)


def _plan_blocks(plan: admin.RunBulkActionResponse) -> list[Block]:
    words = f"{plan.matched} transactions match, {plan.succeeded} can be acted on; nothing was changed"
    sample = f"for example {', '.join(plan.sample_gids)}" if plan.sample_gids else ""
    blocks: list[Block] = [TextBlock(words)]
    if sample:
        blocks.append(TextBlock(sample))
    return [*blocks, *_failure_blocks(plan.failures)]


def _how_to_go_on(plan: admin.RunBulkActionResponse, request: admin.RunBulkActionRequest) -> list[Block]:
    if not plan.matched:
        return []
    reason = "WHY" if request.operator_context.reason == _DRY_RUN else request.operator_context.reason
    options = ["--filter", request.filter, "--token", plan.confirmation_token, "--reason", reason]
    line = command_line("tccctl", "tx", _verb(request.action), options=options)
    return [TextBlock("to execute:"), TextBlock(f"  {line}", "green")]


def _failure_blocks(failures: Iterable[admin.BulkFailure]) -> list[Block]:
    rows = [
        [cell(failure.gid), cell(failure.error.reason, "red"), cell(failure.error.message)]
        for failure in failures
    ]
    columns = (Column("GID"), Column("NOT DONE"), Column("WHY", flexible=True))
    return [Table(columns=columns, rows=rows, empty="")] if rows else []


def _verb(action: "admin.BulkAction") -> str:
    return enum_name(admin.BulkAction.DESCRIPTOR, action).lower()
