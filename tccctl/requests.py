"""`tccctl requests` and `tccctl approve`: commands that wait for a second person."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.blocks import Cell, Column, Table, TextBlock, cell
from tccctl.command import Reason, Yes, command, group
from tccctl.failures import UsageFailure
from tccctl.session import Session, confirmed

app = group("List commands that wait for a second person.")

_PAGE_SIZE = 1_000
# The commands that may need two persons, by their actions in the audit chain.
_RESOLVE, _REPAIR = "branch.resolve", "branch.repair"


class Request(NamedTuple):
    """A command that one operator has requested."""

    record: admin.AuditRecord
    action: str
    gid: str
    arguments: dict[str, str]
    expires_at: int


@command(app, "list", examples=["tccctl requests list"])
def list_(session: Session) -> None:
    """List commands that one operator requested, and that another may approve, newest first."""
    found = list(_open(session))
    session.output.answer(
        [_table(found)], {"requests": [session.record(request.record) for request in found]}
    )


def register(root: typer.Typer) -> None:
    """Register `approve` and the group."""
    root.add_typer(app, name="requests")
    command(root, "approve", examples=["tccctl approve 17 --reason 'checked with the warehouse'"])(approve)


def approve(
    session: Session,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The request's number.")],
    *,
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Carry out a command that another operator has requested, by repeating it."""
    request = next((one for one in _open(session) if one.record.sequence == number), None)
    if request is None:
        raise UsageFailure(f"there is no open request {number}", advice="`tccctl requests list` shows them")
    by, arguments = request.record.operator, request.arguments
    shown = ", ".join(f"{name} {value}" for name, value in arguments.items() if value)
    confirmed(
        f"Carry out {request.action} of {request.gid} ({shown})? Requested by {by}: {request.record.reason}.",
        yes=yes,
        advice="add --yes: this cannot be undone",
    )
    if arguments.get("payload_sha256"):
        raise UsageFailure(
            "the request has a payload, which is not recorded",
            advice="repeat the command itself: tccctl reconcile --repair with --payload",
        )
    reply = _REPEAT[request.action](session, request, reason)
    words = TextBlock(f"request {number} was carried out (audit record {reply.audit_record.sequence})")
    session.output.answer([words], session.record(reply))


def _resolve(session: Session, request: Request, reason: str | None) -> Any:
    inspected = session.ask("InspectTransaction", admin.InspectTransactionRequest(gid=request.gid))
    return session.do(
        "ResolveBranch",
        admin.ResolveBranchRequest(
            gid=request.gid,
            branch_id=request.arguments["branch_id"],
            outcome=f"HEURISTIC_OUTCOME_{request.arguments['outcome']}",
            operator_context=session.operator_context(reason, version=inspected.transaction.version),
        ),
    )


def _repair(session: Session, request: Request, reason: str | None) -> Any:
    return session.do(
        "RepairBranch",
        admin.RepairBranchRequest(
            participant=request.arguments["participant"],
            gid=request.gid,
            branch_id=request.arguments["branch_id"],
            operation=f"OPERATION_{request.arguments['operation']}",
            content_type=request.arguments["content_type"],
            operator_context=session.operator_context(reason),
        ),
    )


_REPEAT: dict[str, Callable[[Session, Request, str | None], Any]] = {_RESOLVE: _resolve, _REPAIR: _repair}


def _open(session: Session) -> Iterator[Request]:
    """Yield the requests that are neither carried out nor expired, newest first."""
    used = {
        number
        for action in _REPEAT
        for record in _records(session, action)
        for number in json.loads(record.detail).get("approves", ())
    }
    found = [
        Request(
            record,
            action,
            record.target.removeprefix("transaction/"),
            json.loads(record.detail)["arguments"],
            json.loads(record.detail)["expires_at"],
        )
        for action in _REPEAT
        for record in _records(session, f"{action}.request")
        if record.sequence not in used
    ]
    found.sort(key=lambda request: request.record.sequence, reverse=True)
    return (request for request in found if request.expires_at > time.time())


def _records(session: Session, action: str) -> list[admin.AuditRecord]:
    asked = admin.ListAuditRecordsRequest(action=action, page_size=_PAGE_SIZE)
    return list(session.ask("ListAuditRecords", asked).records)


def _table(found: list[Request]) -> Table:
    columns = (
        Column("NUMBER", right=True),
        Column("BY"),
        Column("COMMAND"),
        Column("GID"),
        Column("BRANCH"),
        Column("WHAT"),
        Column("UNTIL", optional=1),
        Column("REASON", characters_max=80, flexible=True, optional=2),
    )
    return Table(columns=columns, rows=list(map(_row, found)), empty="no command waits for a second person")


def _row(request: Request) -> list[Cell]:
    arguments = request.arguments
    return [
        cell(str(request.record.sequence)),
        cell(request.record.operator),
        cell(request.action),
        cell(request.gid, "bold"),
        cell(arguments["branch_id"]),
        cell((arguments.get("outcome") or arguments["operation"]).lower()),
        cell(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(request.expires_at))),
        cell(request.record.reason),
    ]
