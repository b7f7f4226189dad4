"""A participant: the real plans of `tcc.barrier` over rows in memory, and the books beside them.

The books are what a handler did, and are kept apart from the barrier's row, so that
a barrier that runs a handler once too often, or too late, is seen in them.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from tcc.barrier import (
    WRITES,
    Code,
    Invoke,
    Key,
    Operation,
    Outcome,
    Plan,
    Result,
    Row,
    State,
    settle,
)
from tcc.branch import BatchItem, Branch, Rejected

KEY = ("g", "b")
ACTION = "reserve"


class Book(IntEnum):
    """What the handlers have done for a branch. VOID: nothing, and a Cancel was told so."""

    UNTOUCHED = 0
    RESERVED = 1
    TAKEN = 2
    RETURNED = 3
    VOID = 4


class Shelf(NamedTuple):
    """A branch at its participant: the barrier's row, if there is one, and the book."""

    row: State | None = None
    book: Book = Book.UNTOUCHED


class Executed(NamedTuple):
    """What became of a call. `broken`: the handler ran when it should not have."""

    shelf: Shelf
    outcome: Outcome
    broken: str = ""


_MOVES = {
    Operation.TRY: (Book.UNTOUCHED, Book.RESERVED),
    Operation.CONFIRM: (Book.RESERVED, Book.TAKEN),
    Operation.CANCEL: (Book.RESERVED, Book.RETURNED),
}


def execute(shelf: Shelf, operation: Operation, *, expired: bool, rejects: bool) -> Executed:
    """One local transaction. `rejects`: a Try's handler says no."""
    sql = _Rows(shelf.row, expired=expired)
    item = BatchItem(Branch(gid=KEY[0], branch_id=KEY[1], action=ACTION), None)
    plan = settle(sql, operation, ACTION, [item])
    book, broken = shelf.book, ""
    answers: list[object] | None = None
    try:
        while True:
            step = plan.send(answers)  # a plan begins with nothing to be sent, and so does this
            assert isinstance(step, Invoke), "this database needs no statements"
            answers = [Rejected("SOLD_OUT") if rejects and operation is Operation.TRY else None]
            if answers == [None]:
                before, after = _MOVES[operation]
                if book is not before:
                    broken = f"{operation.name} took effect on a branch that is {book.name}"
                book = after
    except StopIteration as end:
        (outcome,) = end.value
    if operation is Operation.CANCEL and outcome.code is Code.SUCCEEDED and book is Book.UNTOUCHED:
        book = Book.VOID
    return Executed(Shelf(sql.state, book), outcome, broken)


class _Rows:
    """`tcc.barrier.BarrierSql` over at most one row."""

    def __init__(self, state: State | None, *, expired: bool) -> None:
        self.state = state
        self._expired = expired

    def begin(self) -> Plan[None]:
        yield from ()

    def claim(self, operation: Operation, action: str, branches: Sequence[Branch]) -> Plan[set[Key]]:
        yield from ()
        assert action == ACTION
        assert len(branches) == 1
        if self.state is not None or (operation is Operation.TRY and self._expired):
            return set()
        self.state = WRITES[operation]
        return {KEY}

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        yield from ()
        return [Row(*key, ACTION, int(self.state), None, None) for key in keys if self.state is not None]

    def move(self, keys: Sequence[Key], state: State) -> Plan[None]:
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
