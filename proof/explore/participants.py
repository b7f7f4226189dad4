"""A participant: the real plans of `tcc.barrier.plans` over rows in memory, and the books beside them.

The books are what a handler did, and are kept apart from the barrier's row, so that
a barrier that runs a handler once too often, or too late, is seen in them.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from tcc.barrier.decisions import WRITES, BarrierState, BranchKind, CallResult, Operation, OutcomeCode
from tcc.barrier.plans import Invoke, Key, Plan, Result, Row, settle
from tcc.branch import BatchItem, Branch, Rejected

KEY = ("g", "b")
ACTION = "reserve"


class Reservation(IntEnum):
    """What the handlers have done for a branch. VOID: nothing, and a Cancel has found that."""

    UNTOUCHED = 0
    RESERVED = 1
    TAKEN = 2
    RETURNED = 3
    VOID = 4


class BranchRows(NamedTuple):
    """A branch at its participant: the barrier's row, if there is one, and the book."""

    row: BarrierState | None = None
    reservation: Reservation = Reservation.UNTOUCHED


class Executed(NamedTuple):
    """What became of a call. `broken`: the handler ran when it should not have."""

    branch_rows: BranchRows
    outcome: CallResult
    broken: str = ""


_MOVES = {
    Operation.TRY: (Reservation.UNTOUCHED, Reservation.RESERVED),
    Operation.CONFIRM: (Reservation.RESERVED, Reservation.TAKEN),
    Operation.CANCEL: (Reservation.RESERVED, Reservation.RETURNED),
}


def execute(branch_rows: BranchRows, operation: Operation, *, expired: bool, rejects: bool) -> Executed:
    """One local transaction. `rejects`: a Try's handler says no."""
    sql = _Rows(branch_rows.row, expired=expired)
    item = BatchItem(Branch(gid=KEY[0], branch_id=KEY[1], action=ACTION), None)
    plan = settle(sql, operation, ACTION, [item])
    reservation, broken = branch_rows.reservation, ""
    answers: list[object] | None = None
    try:
        while True:
            step = plan.send(answers)  # a plan begins with nothing to be sent, and so does this
            assert isinstance(step, Invoke), "this database needs no statements"
            answers = [Rejected("SOLD_OUT") if rejects and operation is Operation.TRY else None]
            if answers == [None]:
                before, after = _MOVES[operation]
                if reservation is not before:
                    broken = f"{operation.name} took effect on a branch that is {reservation.name}"
                reservation = after
    except StopIteration as end:
        (outcome,) = end.value
    if (
        operation is Operation.CANCEL
        and outcome.code is OutcomeCode.SUCCEEDED
        and reservation is Reservation.UNTOUCHED
    ):
        reservation = Reservation.VOID
    return Executed(BranchRows(sql.state, reservation), outcome, broken)


class _Rows:
    """`tcc.barrier.plans.BarrierSql` over at most one row."""

    def __init__(self, state: BarrierState | None, *, expired: bool) -> None:
        self.state = state
        self._expired = expired

    def begin(self) -> Plan[None]:
        yield from ()

    def claim(
        self,
        operation: Operation,
        action: str,
        branches: Sequence[Branch],
        *,
        kind: BranchKind,
        margin_ms: int,  # noqa: ARG002 - the model knows only whether the transaction has expired
    ) -> Plan[set[Key]]:
        yield from ()
        assert kind is BranchKind.TCC
        assert action == ACTION
        assert len(branches) == 1
        if self.state is not None or (operation is Operation.TRY and self._expired):
            return set()
        self.state = WRITES[operation]
        return {KEY}

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        yield from ()
        return [Row(*key, ACTION, int(self.state), None, None) for key in keys if self.state is not None]

    def move(self, keys: Sequence[Key], state: BarrierState) -> Plan[None]:
        yield from ()
        assert list(keys) == [KEY]
        self.state = state

    def keep(self, results: Sequence[Result]) -> Plan[None]:
        yield from ()
        raise AssertionError(f"no handler here returns anything: {results}")

    def drop(self, keys: Sequence[Key]) -> Plan[None]:
        yield from ()
        assert list(keys) == [KEY]
        self.state = None
