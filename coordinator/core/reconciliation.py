"""The comparison of participants' barrier rows with the log: findings, and their repairs.

The order of reading makes it sound: first the participant's row, then the log. A branch
is durable in the log before its Try is sent, so a row whose branch the log does not know
is an orphan. A branch is done in the log only after its participant has answered, so a row
that is still open when it is read again, after the log, is a leak. A decision never
changes, nor does a row that has ended, so a contradiction between them is permanent.

Pure: `coordinator.engine.reconciler` reads and calls.
"""

from enum import IntEnum

from msgspec import Struct

from coordinator.core.model import (
    DECISIONS,
    Branch,
    BranchKind,
    Heuristic,
    Operation,
    Transaction,
    TransactionState,
)


class BarrierState(IntEnum):
    """The state of a row of a participant's barrier. Numbers are those of the contract."""

    TRIED = 1
    CONFIRMED = 2
    CANCELLED = 3


class BarrierRow(Struct, frozen=True, kw_only=True):
    """A row of a participant's barrier. `age_s`: since its last change, by the participant's clock."""

    gid: str
    branch_id: str
    action: str
    state: BarrierState
    age_s: float
    kind: BranchKind = BranchKind.TCC

    @property
    def key(self) -> tuple[str, str]:
        return self.gid, self.branch_id


class FindingKind(IntEnum):
    """How a row contradicts the log. Numbers are those of the contract."""

    ORPHAN = 1
    LEAK = 2
    MIXED = 3


class Finding(Struct, frozen=True, kw_only=True):
    """A row that does not agree with the log."""

    participant: str
    row: BarrierRow
    kind: FindingKind
    # None: the log does not know the transaction.
    state: TransactionState | None
    explanation: str
    # The proposed operation; None: an operator has to find out first.
    repair: Operation | None = None
    # The operations that an operator may choose.
    repairs: frozenset[Operation] = frozenset()


_ENDS = {Operation.CONFIRM: BarrierState.CONFIRMED, Operation.CANCEL: BarrierState.CANCELLED}
_BY_OPERATOR = {Heuristic.CONFIRMED: Operation.CONFIRM, Heuristic.CANCELLED: Operation.CANCEL}
_EITHER = frozenset(_ENDS)
# The action of a branch that an initiator performs in its own database.
LOCAL_ACTION = "local"


def compare_row(
    participant: str, row: BarrierRow, tx: Transaction | None, *, retention_s: float
) -> Finding | None:
    """Return the finding about a row of this participant; None: there is none, or none yet.

    `tx`: its transaction, read from the log after the row; None: the log does not know it.
    `retention_s`: how long the log keeps what has ended.
    """
    if tx is None:
        return _unknown(participant, row, retention_s)
    branch = next((one for one in tx.branches if one.spec.branch_id == row.branch_id), None)
    decision = DECISIONS.get(tx.state)
    if branch is None or (branch.spec.participant, branch.spec.action) != (participant, row.action):
        return _without_branch(participant, row, tx, branch, decision)
    wanted = _BY_OPERATOR.get(branch.heuristic, decision)
    if row.state is BarrierState.TRIED:
        return _still_tried(participant, row, tx, branch, wanted) if branch.done else None
    return _mixed(participant, row, tx, wanted)


def _still_tried(
    participant: str, row: BarrierRow, tx: Transaction, branch: Branch, wanted: Operation | None
) -> Finding | None:
    """`wanted`: the operation that was decided for the branch, which is done.

    The row of a SAGA stays as it is under CONFIRM, which needs no call.
    """
    if branch.spec.kind is BranchKind.SAGA and wanted is Operation.CONFIRM:
        return None
    if branch.spec.check_back:
        return _contradicted(participant, row, tx, "it has taken effect, but CANCEL was decided")
    return _leak(participant, row, tx, branch, DECISIONS.get(tx.state))


def _unknown(participant: str, row: BarrierRow, retention_s: float) -> Finding | None:
    if row.state is not BarrierState.TRIED:
        return None  # The log forgets what has ended.
    if row.kind is BranchKind.SAGA and row.age_s >= retention_s:
        return None  # The row of a SAGA stays TRIED when it is confirmed.
    if row.age_s < retention_s:
        explanation, repair = (
            "the log has no such transaction, so no coordinator will end this",
            Operation.CANCEL,
        )
    else:
        explanation, repair = (
            (
                "the log has no such transaction; this is older than the log's retention, "
                "so it may have been confirmed or cancelled: find out which"
            ),
            None,
        )
    return _orphan(participant, row, None, explanation, repair)


def _without_branch(
    participant: str, row: BarrierRow, tx: Transaction, branch: Branch | None, decision: Operation | None
) -> Finding | None:
    if branch is not None and branch.spec.participant != participant:
        # Two participants may share a database, and one may get a new name: the branch is judged at its own.
        return None
    if row.state is BarrierState.TRIED:
        known = "no such branch" if branch is None else f"this branch with the action {branch.spec.action}"
        explanation = f"the transaction has {known}, so no coordinator will end this"
        return _orphan(participant, row, tx.state, explanation, Operation.CANCEL)
    # What was cancelled changed nothing; what was confirmed did.
    return _mixed(participant, row, tx, decision) if row.state is BarrierState.CONFIRMED else None


def _orphan(
    participant: str,
    row: BarrierRow,
    state: TransactionState | None,
    explanation: str,
    repair: Operation | None,
) -> Finding:
    repairs = _repairs(row)
    if row.kind is BranchKind.SAGA and row.action == LOCAL_ACTION:
        explanation = f"{explanation}; its initiator has committed it, and no call can repair that"
        repair, repairs = None, frozenset()
    return Finding(
        participant=participant,
        row=row,
        kind=FindingKind.ORPHAN,
        state=state,
        explanation=explanation,
        repair=repair,
        repairs=repairs,
    )


def _repairs(row: BarrierRow) -> frozenset[Operation]:
    """Return the calls that can end a row that is TRIED. A SAGA is compensated, or stays as it is."""
    return frozenset({Operation.CANCEL}) if row.kind is BranchKind.SAGA else _EITHER


def _leak(
    participant: str, row: BarrierRow, tx: Transaction, branch: Branch, decision: Operation | None
) -> Finding:
    if branch.heuristic or decision is None:
        explanation = (
            f"an operator has resolved the branch ({branch.heuristic.name}), "
            "and its reservation is still open"
        )
        repair, repairs = None, _repairs(row)
    else:
        explanation = f"the log knows that its {decision.name.capitalize()} was done, but this is still open"
        repair, repairs = decision, frozenset({decision})
    return Finding(
        participant=participant,
        row=row,
        kind=FindingKind.LEAK,
        state=tx.state,
        explanation=explanation,
        repair=repair,
        repairs=repairs,
    )


def _mixed(participant: str, row: BarrierRow, tx: Transaction, wanted: Operation | None) -> Finding | None:
    """`wanted`: the operation that was decided for the branch; None: nothing is decided."""
    if wanted is None and row.state is BarrierState.CONFIRMED:
        explanation = "it is confirmed, but nothing is decided yet"
    elif wanted is not None and row.state is not _ENDS[wanted]:
        explanation = f"it is {row.state.name.lower()}, but {wanted.name} was decided"
    else:
        return None
    return _contradicted(participant, row, tx, explanation)


def _contradicted(participant: str, row: BarrierRow, tx: Transaction, explanation: str) -> Finding:
    return Finding(
        participant=participant,
        row=row,
        kind=FindingKind.MIXED,
        state=tx.state,
        explanation=f"{explanation}; no call can repair that",
    )
