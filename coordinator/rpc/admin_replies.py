"""What operators are told, from the log's values."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from coordinator.core.audit import AuditRecord
from coordinator.core.model import Branch, Note, Operation, Transaction
from coordinator.ports import (
    Adoption,
    CoordinatorRecord,
    ParticipantRecord,
    ParticipantReport,
    Record,
    Unsettled,
)
from coordinator.rpc.replies import timestamp
from tcc.v1 import admin_pb2 as pb


def history(record: Record, adoption: Adoption | None, acts: Sequence[AuditRecord]) -> list[pb.HistoryEntry]:
    """What happened to a transaction, oldest first. `acts`: what operators did to it.

    Milestones are told by the database's clock and calls by a coordinator's reading of
    it, which is some milliseconds off: a call is shown within the phase it belongs to.
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
                detail="taken over from a coordinator that had died",
                actor=adoption.former_owner,
                count=1,
            )
        )
    entries += [_act(act) for act in acts]
    return sorted(filter(None, entries), key=_order)


def _within_its_phase(note: Note, record: Record) -> Note:
    if note.operation is Operation.TRY:
        begun_at, over_at = record.created_at, record.decided_at or math.inf
    else:
        begun_at, over_at = record.decided_at or record.created_at, record.ended_at or math.inf
    at = min(max(note.at, begun_at), over_at)
    return replace(note, at=at, last_at=min(max(note.last_at, at), over_at))


def _order(entry: pb.HistoryEntry) -> tuple[int, int, int]:
    """By time; of what has one time, the cause first."""
    if entry.kind == pb.HISTORY_KIND_BEGUN:
        rank = 0
    elif entry.operation == Operation.TRY.name:
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
    """Return why `tx` was cancelled, with what the participant said."""
    words = " ".join(filter(None, (tx.cancel_reason.name, tx.cancel_branch_id, tx.cancel_detail)))
    return f"{words}: {tx.cancel_message}" if tx.cancel_message else words


def _noted(branch: Branch, note: Note) -> Iterable[pb.HistoryEntry]:
    entry = pb.HistoryEntry(
        at=timestamp(note.at),
        kind=pb.HISTORY_KIND_LEFT_OUT if note.left_out else pb.HISTORY_KIND_CALL_FAILED,
        branch_id=branch.spec.branch_id,
        participant=branch.spec.participant,
        operation=note.operation.name,
        detail=note.words,
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


def _act(act: AuditRecord) -> pb.HistoryEntry:
    said = json.loads(act.entry.detail)
    what = " ".join(filter(None, (act.entry.action, said.get("outcome") or said.get("operation"))))
    return pb.HistoryEntry(
        at=timestamp(act.at_us / 1e6),
        kind=pb.HISTORY_KIND_OPERATOR,
        branch_id=said.get("branch_id", ""),
        participant=said.get("participant", ""),
        detail=f"{what}: {act.entry.reason}",
        actor=act.entry.operator,
        count=1,
    )


def audit_record(record: AuditRecord) -> pb.AuditRecord:
    """A record with the exact microseconds that its hash covers."""
    reply = pb.AuditRecord(
        sequence=record.sequence,
        operator=record.entry.operator,
        action=record.entry.action,
        target=record.entry.target,
        reason=record.entry.reason,
        detail=record.entry.detail,
        previous_hash=record.previous_hash,
        hash=record.hash,
    )
    reply.at.FromMicroseconds(record.at_us)
    return reply


def coordinator(record: CoordinatorRecord, driving: Mapping[str, int]) -> pb.Coordinator:
    """A coordinator with its lease."""
    return pb.Coordinator(
        id=record.id,
        name=record.name,
        started_at=timestamp(record.started_at),
        lease_until=timestamp(record.lease_until),
        alive=record.alive,
        drain_requested_at=timestamp(record.drain_requested_at),
        driving=driving.get(record.id, 0),
        reported_at=timestamp(record.reported_at),
        live=record.report.live,
        log_backlog=record.report.log_backlog,
        version=record.report.version,
    )


def participants(
    acted_on: Mapping[str, ParticipantRecord],
    coordinators: Sequence[CoordinatorRecord],
    unsettled: Unsettled,
) -> list[pb.ParticipantStatus]:
    """Every participant that a living coordinator knows, that waits, or that was acted on, by name."""
    known = {name for one in coordinators if one.alive for name in one.report.participants}
    return [
        participant(acted_on.get(name, ParticipantRecord(name=name)), coordinators, unsettled)
        for name in sorted(known | acted_on.keys() | unsettled.waiting_on.keys())
    ]


def participant(
    record: ParticipantRecord, coordinators: Sequence[CoordinatorRecord], unsettled: Unsettled
) -> pb.ParticipantStatus:
    """One participant, as all coordinators that live see it."""
    waiting = unsettled.waiting_on.get(record.name, 0)
    return pb.ParticipantStatus(
        name=record.name,
        paused=record.paused,
        version=record.version,
        operator=record.operator,
        reason=record.reason,
        changed_at=timestamp(record.changed_at),
        waiting=waiting,
        waiting_at_least=waiting >= unsettled.count_max,
        reports=reports(record.name, coordinators),
    )


def reports(name: str, coordinators: Sequence[CoordinatorRecord]) -> list[pb.ParticipantReport]:
    """What the coordinators that live say of a participant."""
    return [
        _report(one, one.report.participants[name])
        for one in coordinators
        if one.alive and name in one.report.participants
    ]


def _report(reporter: CoordinatorRecord, said: ParticipantReport) -> pb.ParticipantReport:
    return pb.ParticipantReport(
        coordinator_id=reporter.id,
        coordinator_name=reporter.name,
        reported_at=timestamp(reporter.reported_at),
        breaker=_breaker(said, reporter.reported_at or 0.0),
        probe_at=timestamp(said.probe_at),
        failures_in_a_row=said.failures_in_a_row,
        backlog=said.backlog,
        under_way=said.under_way,
        live_branches=said.live_branches,
        calls_answered=said.calls_answered,
        calls_failed=said.calls_failed,
        last_error=said.last_error,
        last_error_at=timestamp(said.last_error_at or None),
        target=said.target,
        paused=said.paused,
    )


def _breaker(said: ParticipantReport, at: float) -> pb.BreakerState:
    if said.probe_at is None:
        return pb.BREAKER_STATE_CLOSED
    if said.probing or said.probe_at <= at:
        return pb.BREAKER_STATE_HALF_OPEN
    return pb.BREAKER_STATE_OPEN
