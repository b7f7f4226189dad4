"""The history of a transaction: recorded by two clocks, shown in causal order."""

import itertools

import pytest

from coordinator.api.operator import explanation, replies
from coordinator.core.audit import AuditEntry, AuditRecord
from coordinator.core.model import (
    Branch,
    BranchSpec,
    CancelReason,
    Note,
    Operation,
    Transaction,
    TransactionState,
)
from coordinator.ports.log import Record
from tcc.admin.v1 import admin_pb2 as pb

BEGUN, DECIDED, ENDED = 100.0, 200.0, 300.0


def recorded(*notes: Note) -> Record:
    branch = Branch(spec=BranchSpec(branch_id="1", participant="stock", action="reserve"), notes=notes)
    tx = Transaction(
        gid="g",
        branches=(branch,),
        expires_at=1_000.0,
        state=TransactionState.CANCELLED,
        cancel_reason=CancelReason.TRY_FAILED,
        cancel_branch_id="1",
        cancel_detail="NO_BOOKS",
        cancel_message="the books are lost",
    )
    return Record(tx=tx, owner=None, created_at=BEGUN, decided_at=DECIDED, ended_at=ENDED)


def note(operation: Operation, at: float, last_at: float) -> Note:
    return Note(at=at, operation=operation, text="NO_BOOKS", count=2, last_at=last_at, stuck=True)


def told(record: Record, *actions: AuditRecord) -> list[tuple[str, str]]:
    entries = replies.history(record, None, actions)
    return [(pb.HistoryKind.Name(one.kind).removeprefix("HISTORY_KIND_"), one.operation) for one in entries]


@pytest.mark.parametrize(
    ("try_ahead_s", "cancel_ahead_s"), list(itertools.product([-110.0, -0.002, 0.0, 0.002, 110.0], repeat=2))
)
def test_clock_skew_does_not_move_a_call_out_of_its_phase(try_ahead_s: float, cancel_ahead_s: float) -> None:
    record = recorded(
        note(Operation.TRY, BEGUN + try_ahead_s, DECIDED + try_ahead_s),
        note(Operation.CANCEL, DECIDED + cancel_ahead_s, ENDED + cancel_ahead_s),
    )
    assert told(record) == [
        ("BEGUN", ""),
        ("CALL_FAILED", "TRY"),
        ("STUCK", "TRY"),
        ("DECIDED", ""),
        ("CALL_FAILED", "CANCEL"),
        ("STUCK", "CANCEL"),
        ("ENDED", ""),
    ]
    entries = replies.history(record, None, ())
    moments = [entry.at.ToNanoseconds() for entry in entries]
    assert moments == sorted(moments)
    assert all(e.last_at.ToNanoseconds() >= e.at.ToNanoseconds() for e in entries if e.HasField("last_at"))


def test_times_within_the_phase_are_shown_unchanged() -> None:
    entries = replies.history(recorded(note(Operation.CANCEL, 210.5, 250.25)), None, ())
    shown = [(entry.at.ToMilliseconds(), entry.last_at.ToMilliseconds()) for entry in entries[2:4]]
    assert shown == [(210_500, 250_250), (250_250, 250_250)]


def test_an_operator_s_action_is_shown_between_cause_and_end() -> None:
    entry = AuditEntry(operator="ann", action="transaction.hold", target="g", reason="asking", detail="{}")
    held = AuditRecord(sequence=1, at_us=int(DECIDED * 1e6), entry=entry, previous_hash="", hash="")
    record = recorded(note(Operation.CANCEL, 201.0, 202.0))
    kinds = [kind for kind, _ in told(record, held)]
    assert kinds == ["BEGUN", "DECIDED", "OPERATOR", "CALL_FAILED", "STUCK", "ENDED"]


def test_the_decision_is_shown_with_the_participant_s_message() -> None:
    entries = replies.history(recorded(), None, ())
    (decided,) = [entry for entry in entries if entry.kind == pb.HISTORY_KIND_DECIDED]
    assert decided.detail == "CANCEL: TRY_FAILED 1 NO_BOOKS: the books are lost"


def test_an_ended_transaction_is_explained_with_the_message() -> None:
    explained = explanation.explain(recorded(), None, (), {}, now=ENDED)
    assert explained.summary == ("it has ended: CANCELLED, because TRY_FAILED 1 NO_BOOKS: the books are lost")
