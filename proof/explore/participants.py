"""A participant: the real plans of `tcc.barrier.plans` over rows in memory, and the books beside them.

The books are what a handler did, and are kept apart from the barrier's row, so that
a barrier that runs a handler once too often, or too late, is seen in them.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from tcc.barrier.decisions import WRITES, BarrierState, BranchKind, CallResult, Operation
from tcc.barrier.plans import Invoke, Key, Plan, Result, Row, settle
from tcc.branch import BatchItem, Branch, Rejected

KEY = ("g", "b")
ACTION = "reserve"


class Reservation(IntEnum):
    """What the handlers have done for a branch. VOID: nothing, and a Cancel or Check has found that.

    A SAGA is TAKEN by its Try: there is nothing to be confirmed.
    """

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
    (BranchKind.TCC, Operation.TRY): (Reservation.UNTOUCHED, Reservation.RESERVED),
    (BranchKind.TCC, Operation.CONFIRM): (Reservation.RESERVED, Reservation.TAKEN),
    (BranchKind.TCC, Operation.CANCEL): (Reservation.RESERVED, Reservation.RETURNED),
    (BranchKind.SAGA, Operation.TRY): (Reservation.UNTOUCHED, Reservation.TAKEN),
    (BranchKind.SAGA, Operation.CANCEL): (Reservation.TAKEN, Reservation.RETURNED),
    (BranchKind.MESSAGE, Operation.CONFIRM): (Reservation.UNTOUCHED, Reservation.TAKEN),
}


def execute(
    branch_rows: BranchRows, kind: BranchKind, operation: Operation, *, expired: bool, rejects: bool
) -> Executed:
    """One local transaction. `rejects`: a Try's handler says no."""
    sql = _Rows(branch_rows.row, kind, expired=expired)
    item = BatchItem(Branch(gid=KEY[0], branch_id=KEY[1], action=ACTION), None)
    plan = settle(sql, operation, ACTION, [item], kind=kind)
    reservation, broken = branch_rows.reservation, ""
    answers: list[object] | None = None
    try:
        while True:
            step = plan.send(answers)  # a plan begins with nothing to be sent, and so does this
            assert isinstance(step, Invoke), "this database needs no statements"
            answers = [Rejected("SOLD_OUT") if rejects and operation is Operation.TRY else None]
            if answers == [None]:
                before, after = _MOVES[kind, operation]
                if reservation is not before:
                    broken = f"{operation.name} took effect on a branch that is {reservation.name}"
                reservation = after
    except StopIteration as end:
        (outcome,) = end.value
    if (
        operation in (Operation.CANCEL, Operation.CHECK)
        and sql.state is BarrierState.CANCELLED
        and reservation is Reservation.UNTOUCHED
    ):
        reservation = Reservation.VOID
    return Executed(BranchRows(sql.state, reservation), outcome, broken)


class _Rows:
    """`tcc.barrier.plans.BarrierSql` over at most one row."""

    def __init__(self, state: BarrierState | None, kind: BranchKind, *, expired: bool) -> None:
        self.state = state
        self._kind = kind
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
        assert kind is self._kind
        assert action == ACTION
        assert len(branches) == 1
        if self.state is not None or (operation is Operation.TRY and self._expired):
            return set()
        self.state = WRITES[operation]
        return {KEY}

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        yield from ()
        if self.state is None:
            return []
        return [Row(*key, ACTION, int(self.state), None, None, kind=int(self._kind)) for key in keys]

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
