"""`tccctl participant`: health, pause and resume."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.blocks import Cell, Column, Table, TextBlock, cell
from tccctl.command import Reason, Version, command, group
from tccctl.exit_codes import ExitCode
from tccctl.failures import Failure
from tccctl.formatting import ago, counted, due, enum_name
from tccctl.session import OPERATE_FOR_ALL, Session

app = group("List participants as the coordinators see them; pause and resume them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The participant's name.")]

_BREAKER_STYLES = {"closed": "green", "half-open": "yellow", "open": "bold red"}


@command(app, "list", examples=["tccctl participant list", "tccctl participant list -o wide"])
def list_(session: Session) -> None:
    """List participants, as each live coordinator sees them."""
    reply = session.ask("ListParticipants", admin.ListParticipantsRequest())
    session.output.answer([participant_table(reply.participants, time.time())], session.record(reply))


@command(app, "pause", examples=["tccctl participant pause inventory --reason 'its database is being moved'"])
def pause(session: Session, name: Name, reason: Reason = None, version: Version = None) -> None:
    """Stop all calls to a participant. Its branches wait, and new transactions for it are refused."""
    _execute(session, "PauseParticipant", admin.PauseParticipantRequest(participant=name), reason, version)


@command(app, "resume", examples=["tccctl participant resume inventory --reason 'the move is over'"])
def resume(session: Session, name: Name, reason: Reason = None, version: Version = None) -> None:
    """Allow calls to a participant again."""
    _execute(session, "ResumeParticipant", admin.ResumeParticipantRequest(participant=name), reason, version)


@command(
    app,
    "reset-breaker",
    examples=["tccctl participant reset-breaker inventory --reason 'the network is repaired'"],
)
def reset_breaker(session: Session, name: Name, reason: Reason = None, version: Version = None) -> None:
    """Close a participant's breaker at every coordinator. `tx retry` retries its transactions now."""
    _execute(session, "ResetBreaker", admin.ResetBreakerRequest(participant=name), reason, version)


def participant_table(participants: Sequence[admin.ParticipantStatus], now_s: float) -> Table:
    """Return a table with one line for each coordinator's view of each participant."""
    columns = (
        Column("PARTICIPANT"),
        Column("STATE"),
        Column("BREAKER"),
        Column("PROBE", optional=4),
        Column("WAITING", right=True),
        Column("IN FLIGHT", right=True, optional=5),
        Column("BACKLOG", right=True, optional=6),
        Column("COMPLETED", right=True, optional=7),
        Column("FAILED", right=True, optional=3),
        Column("SEEN BY", optional=2),
        Column("TARGET", wide=True),
        Column("VERSION", wide=True, right=True),
        Column("CHANGED", wide=True),
        Column("LAST ERROR", characters_max=40, flexible=True, optional=1),
    )
    rows = [
        _row(participant, report, now_s)
        for participant in participants
        for report in participant.reports or [None]
    ]
    return Table(columns=columns, rows=rows, empty="no participant is configured")


def _row(
    participant: admin.ParticipantStatus, report: admin.ParticipantReport | None, now_s: float
) -> list[Cell]:
    known = report or admin.ParticipantReport()
    breaker = enum_name(admin.BreakerState.DESCRIPTOR, known.breaker).lower().replace("_", "-")
    state = "paused" if participant.paused else "not configured" if report is None else "active"
    numbers: list[object] = ["", "", "", ""]
    if report is not None:
        numbers = [report.in_flight, report.backlog, report.calls_completed, report.calls_failed]
    return [
        cell(participant.name, "bold"),
        cell(state, "" if state == "active" else "bold yellow"),
        cell(breaker, _BREAKER_STYLES.get(breaker, "")),
        cell(due(known.probe_at, now_s)),
        cell(_waiting(participant)),
        *map(cell, numbers),
        cell(known.coordinator_name or known.coordinator_id),
        cell(known.target),
        cell(participant.version),
        cell(_changed(participant, now_s)),
        cell(known.last_error, "red"),
    ]


def _waiting(participant: admin.ParticipantStatus) -> str:
    return counted(participant.waiting, at_least=participant.waiting_capped)


def _changed(participant: admin.ParticipantStatus, now_s: float) -> str:
    if not participant.operator:
        return ""
    return f"{ago(participant.changed_at, now_s)} by {participant.operator}: {participant.reason}"


def _execute(session: Session, method: str, request: Any, reason: str | None, version: int | None) -> None:
    if version is None:
        version = _read(session, request.participant).version
    request.operator_context.CopyFrom(session.operator_context(reason, version=version))
    reply = session.do(method, request)
    participant, audit = reply.participant, reply.audit_record
    state = "is paused" if participant.paused else "is active"
    words = f"{participant.name} {state}, version {participant.version} (audit record {audit.sequence})"
    session.output.answer([TextBlock(words)], session.record(reply))


def _read(session: Session, name: str) -> admin.ParticipantStatus:
    """Return the participant's current state, and show it as a note. Raises Failure."""
    reply = session.ask("ListParticipants", admin.ListParticipantsRequest(), needs=OPERATE_FOR_ALL)
    known = reply.participants
    for participant in known:
        if participant.name == name:
            paused = "paused" if participant.paused else "active"
            waiting = _waiting(participant)
            session.output.note(
                f"{name} is {paused}, version {participant.version}, {waiting} transactions wait"
            )
            return participant  # type: ignore[no-any-return]
    names = ", ".join(participant.name for participant in known) or "none"
    raise Failure(
        f"there is no participant {name}", advice=f"known participants: {names}", code=ExitCode.NOT_FOUND
    )
