"""`tccctl coordinator`: coordinators, their leases, and the drain."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.blocks import Cell, Column, Table, TextBlock, cell
from tccctl.command import Reason, Yes, command, group
from tccctl.exit_codes import ExitCode
from tccctl.failures import Failure
from tccctl.formatting import ago
from tccctl.session import OPERATE_FOR_ALL, Session, confirmed

app = group("List coordinators and their leases; drain one.")


@command(app, "list", examples=["tccctl coordinator list", "tccctl coordinator list -o json"])
def list_(session: Session) -> None:
    """List coordinators with their leases. * marks the one that responded."""
    reply = session.ask("ListCoordinators", admin.ListCoordinatorsRequest())
    table = coordinator_table(reply.coordinators, reply.responder_id, time.time())
    session.output.answer([table], session.record(reply))


@command(
    app,
    "drain",
    examples=["tccctl coordinator drain host-1:4711 --reason 'the host is being upgraded' --yes"],
)
def drain(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="COORDINATOR", help="The coordinator's id or name.")],
    *,
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Ask a coordinator to finish its work, accept nothing new, and exit."""
    chosen = _find(session, name)
    confirmed(f"Drain {chosen.name}, which owns {chosen.owned} transactions?", yes=yes, advice="add --yes")
    request = admin.DrainCoordinatorRequest(
        coordinator_id=chosen.id, operator_context=session.operator_context(reason)
    )
    reply = session.do("DrainCoordinator", request)
    words = f"{chosen.name} was asked to drain (audit record {reply.audit_record.sequence})"
    session.output.answer([TextBlock(words)], session.record(reply))


def coordinator_table(coordinators: Sequence[admin.Coordinator], responder_id: str, now_s: float) -> Table:
    """Return a table with one line per coordinator."""
    columns = (
        Column("COORDINATOR"),
        Column("STATE"),
        Column("STARTED", optional=3),
        Column("LEASE UNTIL", optional=2),
        Column("OWNED", right=True),
        Column("LIVE", right=True, optional=4),
        Column("LOG BACKLOG", right=True, optional=5),
        Column("VERSION", optional=1),
        Column("REPORTED", wide=True),
        Column("ID", optional=6),
    )
    rows = [_row(coordinator, responder_id, now_s) for coordinator in coordinators]
    return Table(columns=columns, rows=rows, empty="no coordinator has a lease")


def _row(coordinator: admin.Coordinator, responder_id: str, now_s: float) -> list[Cell]:
    state, style = "alive", "green"
    if not coordinator.alive:
        state, style = "dead", "bold red"
    elif coordinator.HasField("drain_requested_at"):
        state, style = "draining", "yellow"
    mark = "*" if coordinator.id == responder_id else ""
    return [
        cell(f"{coordinator.name}{mark}", "bold"),
        cell(state, style),
        cell(ago(coordinator.started_at, now_s)),
        cell(ago(coordinator.lease_until, now_s)),
        cell(coordinator.owned),
        cell(coordinator.live),
        cell(coordinator.log_backlog),
        cell(coordinator.version),
        cell(ago(coordinator.reported_at, now_s)),
        cell(coordinator.id),
    ]


def _find(session: Session, name: str) -> admin.Coordinator:
    reply = session.ask("ListCoordinators", admin.ListCoordinatorsRequest(), needs=OPERATE_FOR_ALL)
    known = reply.coordinators
    found = [coordinator for coordinator in known if name in {coordinator.id, coordinator.name}]
    if len(found) == 1:
        return found[0]  # type: ignore[no-any-return]
    if found:
        raise Failure(
            f"{len(found)} coordinators are named {name}",
            advice=f"use an id: {', '.join(coordinator.id for coordinator in found)}",
            code=ExitCode.USAGE,
        )
    raise Failure(
        f"there is no coordinator {name}",
        advice="`tccctl coordinator list` shows all coordinators",
        code=ExitCode.NOT_FOUND,
    )
