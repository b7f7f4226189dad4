"""Replies to operators, built from the log's values."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from coordinator.api.initiator.replies import timestamp
from coordinator.core.audit import AuditRecord
from coordinator.core.model import HELD, Branch, Note, Operation, Transaction
from coordinator.engine.auditor import ChainCheck
from coordinator.ports.log import Record
from coordinator.ports.operator_log import (
    Adoption,
    Backlog,
    CoordinatorRecord,
    ParticipantRecord,
    ParticipantReport,
)
from coordinator.security.caller import Caller
from coordinator.security.permissions import PERMISSIONS, missing
from tcc.admin.v1 import admin_pb2 as pb

_PHASE_ONE = (Operation.TRY, Operation.CHECK)
_PHASE_ONE_NAMES = tuple(operation.name for operation in _PHASE_ONE)


def history(
    record: Record, adoption: Adoption | None, actions: Sequence[AuditRecord]
) -> list[pb.HistoryEntry]:
    """Return the history of a transaction, oldest first. `actions`: what operators did to it.

    Milestones have the database's time, and calls a coordinator's estimate of it, which is
    some milliseconds off: a call is shown within the phase it belongs to.
    """
    entries = [
        _milestone(record.created_at, pb.HISTORY_KIND_BEGUN, record.tx.initiator),
        _milestone(record.decided_at, pb.HISTORY_KIND_DECIDED, _decision(record)),
        _milestone(record.ended_at, pb.HISTORY_KIND_ENDED, ""),
    ]
    for branch in record.tx.branches:
        for note in branch.notes:
            entries += _noted(branch, _within_its_phase(note, record))
    if adoption is not None:
        entries.append(
            pb.HistoryEntry(
                at=timestamp(adoption.at),
                kind=pb.HISTORY_KIND_ADOPTED,
                detail="adopted from a dead coordinator",
                actor=adoption.former_owner,
                count=1,
            )
        )
    entries += [_operator_action(action) for action in actions]
    return sorted(filter(None, entries), key=_order)


def _within_its_phase(note: Note, record: Record) -> Note:
    if note.operation in _PHASE_ONE:
        begun_at, over_at = record.created_at, record.decided_at or math.inf
    else:
        begun_at, over_at = record.decided_at or record.created_at, record.ended_at or math.inf
    at = min(max(note.at, begun_at), over_at)
    return replace(note, at=at, last_at=min(max(note.last_at, at), over_at))


def _order(entry: pb.HistoryEntry) -> tuple[int, int, int]:
    """Sort by time; at the same time, the cause comes first."""
    if entry.kind == pb.HISTORY_KIND_BEGUN:
        rank = 0
    elif entry.operation in _PHASE_ONE_NAMES:
        rank = 1
    elif entry.kind == pb.HISTORY_KIND_DECIDED:
        rank = 2
    else:
        rank = 4 if entry.kind == pb.HISTORY_KIND_ENDED else 3
    return entry.at.seconds, entry.at.nanos, rank


def _milestone(at: float | None, kind: pb.HistoryKind, detail: str) -> pb.HistoryEntry | None:
    if at is None:
        return None
    return pb.HistoryEntry(at=timestamp(at), kind=kind, detail=detail, count=1)


def _decision(record: Record) -> str:
    tx = record.tx
    return f"CANCEL: {cancel_words(tx)}" if tx.cancel_reason else "CONFIRM"


def cancel_words(tx: Transaction) -> str:
    """Return why `tx` was cancelled, with the participant's message."""
    text = " ".join(filter(None, (tx.cancel_reason.name, tx.cancel_branch_id, tx.cancel_detail)))
    return f"{text}: {tx.cancel_message}" if tx.cancel_message else text


def _noted(branch: Branch, note: Note) -> Iterable[pb.HistoryEntry]:
    entry = pb.HistoryEntry(
        at=timestamp(note.at),
        kind=pb.HISTORY_KIND_OMITTED if note.omitted else pb.HISTORY_KIND_CALL_FAILED,
        branch_id=branch.spec.branch_id,
        participant=branch.spec.participant,
        operation=note.operation.name,
        detail=note.text,
        count=note.count,
        last_at=timestamp(note.last_at),
    )
    yield entry
    if note.stuck:
        stuck = pb.HistoryEntry()
        stuck.CopyFrom(entry)
        stuck.kind, stuck.count = pb.HISTORY_KIND_STUCK, 1
        stuck.at.CopyFrom(entry.last_at)
        yield stuck


def _operator_action(action: AuditRecord) -> pb.HistoryEntry:
    reported = _detail(action)
    what = " ".join(filter(None, (action.entry.action, reported.get("outcome") or reported.get("operation"))))
    return pb.HistoryEntry(
        at=timestamp(action.at_us / 1e6),
        kind=pb.HISTORY_KIND_OPERATOR,
        branch_id=reported.get("branch_id", ""),
        participant=reported.get("participant", ""),
        detail=f"{what}: {action.entry.reason}",
        actor=action.entry.operator,
        count=1,
    )


def _detail(action: AuditRecord) -> dict[str, str]:
    """Return the texts of a record's detail. One that was tampered with may hold anything."""
    try:
        detail = json.loads(action.entry.detail)
    except (ValueError, RecursionError):
        return {}
    known = detail.items() if isinstance(detail, dict) else ()
    return {name: value for name, value in known if isinstance(value, str)}


def audit_record(record: AuditRecord) -> pb.AuditRecord:
    """Return a record with the exact microseconds that its hash covers."""
    reply = pb.AuditRecord(
        sequence=max(0, record.sequence),
        operator=record.entry.operator,
        action=record.entry.action,
        target=record.entry.target,
        reason=record.entry.reason,
        detail=record.entry.detail,
        on_behalf_of=record.entry.on_behalf_of,
        method=record.entry.method,
        peer=record.entry.peer,
        credential=record.entry.credential,
        role=record.entry.role,
        previous_hash=record.previous_hash,
        hash=record.hash,
        cell=record.cell,
    )
    reply.at.FromMicroseconds(min(max(0, record.at_us), int(HELD * 1e6)))
    return reply


def chain_check(check: ChainCheck, cells: int) -> pb.VerifyAuditChainResponse:
    """Return the result of following the audit chain of one of the log's cells."""
    reply = pb.VerifyAuditChainResponse(
        cells=cells,
        intact=not check.problem,
        records=check.records,
        broken_at_sequence=check.broken_at,
        problem=check.problem,
        head_sequence=check.head.sequence,
        head_hash=check.head.hash,
    )
    if check.signed is not None:
        reply.signed_head.CopyFrom(
            pb.SignedAuditHead(
                sequence=check.signed.head.sequence,
                hash=check.signed.head.hash,
                key_id=check.signed.key_id,
                signature=check.signed.signature,
            )
        )
        reply.signed_head.at.FromMicroseconds(check.signed.at_us)
    return reply


def coordinator(record: CoordinatorRecord, owned: Mapping[str, int]) -> pb.Coordinator:
    """Return a coordinator with its lease."""
    return pb.Coordinator(
        id=record.id,
        name=record.name,
        started_at=timestamp(record.started_at),
        lease_until=timestamp(record.lease_until),
        alive=record.alive,
        drain_requested_at=timestamp(record.drain_requested_at),
        owned=owned.get(record.id, 0),
        reported_at=timestamp(record.reported_at),
        live=record.report.live,
        log_backlog=record.report.log_backlog,
        version=record.report.version,
    )


def participants(
    acted_on: Mapping[str, ParticipantRecord],
    coordinators: Sequence[CoordinatorRecord],
    backlog: Backlog,
) -> list[pb.ParticipantStatus]:
    """Return, by name, every participant that a live coordinator knows, that has waiters, or was acted on."""
    known = {name for one in coordinators if one.alive for name in one.report.participants}
    return [
        participant(acted_on.get(name, ParticipantRecord(name=name)), coordinators, backlog)
        for name in sorted(known | acted_on.keys() | backlog.waiting_on.keys())
    ]


def participant(
    record: ParticipantRecord, coordinators: Sequence[CoordinatorRecord], backlog: Backlog
) -> pb.ParticipantStatus:
    """Return one participant as all live coordinators see it."""
    waiting = backlog.waiting_on.get(record.name, 0)
    return pb.ParticipantStatus(
        name=record.name,
        paused=record.paused,
        version=record.version,
        operator=record.operator,
        reason=record.reason,
        changed_at=timestamp(record.changed_at),
        waiting=waiting,
        waiting_capped=waiting >= backlog.count_max,
        reports=reports(record.name, coordinators),
    )


def reports(name: str, coordinators: Sequence[CoordinatorRecord]) -> list[pb.ParticipantReport]:
    """Return the reports of all live coordinators on a participant."""
    return [
        _report(one, one.report.participants[name])
        for one in coordinators
        if one.alive and name in one.report.participants
    ]


def _report(reporter: CoordinatorRecord, reported: ParticipantReport) -> pb.ParticipantReport:
    return pb.ParticipantReport(
        coordinator_id=reporter.id,
        coordinator_name=reporter.name,
        reported_at=timestamp(reporter.reported_at),
        breaker=_breaker(reported, reporter.reported_at or 0.0),
        probe_at=timestamp(reported.probe_at),
        consecutive_failures=reported.consecutive_failures,
        backlog=reported.backlog,
        in_flight=reported.in_flight,
        live_branches=reported.live_branches,
        calls_completed=reported.calls_completed,
        calls_failed=reported.calls_failed,
        last_error=reported.last_error,
        last_error_at=timestamp(reported.last_error_at or None),
        target=reported.target,
        paused=reported.paused,
    )


def _breaker(reported: ParticipantReport, at: float) -> pb.BreakerState:
    if reported.probe_at is None:
        return pb.BREAKER_STATE_CLOSED
    if reported.probing or reported.probe_at <= at:
        return pb.BREAKER_STATE_HALF_OPEN
    return pb.BREAKER_STATE_OPEN


def who_am_i(caller: Caller | None) -> pb.WhoAmIResponse:
    """Return what a caller may know of itself. None: calls are not authenticated."""
    if caller is None:
        return pb.WhoAmIResponse(methods=[method[1:] for method in PERMISSIONS])
    client, operator = caller.client, caller.operator
    reply = pb.WhoAmIResponse(
        authenticated=True,
        principal=caller.principal,
        method=caller.method,
        methods=[method[1:] for method in PERMISSIONS if not missing(caller, method)],
    )
    if client is not None:
        reply.client = client.name
        reply.gid_prefixes.extend(client.gid_prefixes)
        pairs = [(participant, action) for participant, actions in client.calls.items() for action in actions]
        reply.calls.extend(f"{participant}/{action}" for participant, action in sorted(pairs))
    if operator is not None:
        reply.operator, reply.role = operator.name, caller.role_name
        reply.tenants.extend(sorted(operator.tenants or ()))
        reply.payloads = operator.payloads
    return reply
