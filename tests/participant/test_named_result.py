"""Results that are named before the Try runs: the claim writes them, and the decision table is unchanged."""

from collections.abc import Sequence
from itertools import count

import pytest

from tcc import Branch, Participant, Rejected
from tcc.branch import BatchItem
from tests.barrier.test_barrier import CANCEL, CONFIRM, FAILED, REJECTED, SUCCEEDED, make_call


class Naming:
    """Names results n0, n1, ... and tells what its handlers were shown."""

    def __init__(self) -> None:
        self._numbers = count()
        self.shown: list[tuple[str, bytes]] = []

    def try_result(self, _branch: Branch, request: dict) -> bytes | None:
        return None if "unnamed" in request else b"n%d" % next(self._numbers)

    def answers(self, items: Sequence[BatchItem]) -> list[object]:
        return [self._answer(branch, request) for branch, request in items]

    def show(self, items: Sequence[BatchItem]) -> None:
        self.shown += [(branch.branch_id, branch.try_result) for branch, _ in items]

    def _answer(self, branch: Branch, request: dict) -> object:
        self.shown.append((branch.branch_id, branch.try_result))
        if "reject" in request:
            return Rejected("NO")
        return b"its own" if "own" in request else None


class Async(Naming):
    async def try_batch(self, items, db):
        return self.answers(items)

    async def confirm_batch(self, items, db):
        self.show(items)

    cancel_batch = confirm_batch


class Sync(Naming):
    def try_batch(self, items, db):
        return self.answers(items)

    def confirm_batch(self, items, db):
        self.show(items)

    cancel_batch = confirm_batch


@pytest.fixture
async def named(database, call_participant):
    engine, ledger = database
    handlers = Async() if hasattr(engine, "sync_engine") else Sync()
    participant = Participant("test", database=engine)
    participant.action("act")(handlers)
    return await call_participant(participant), handlers, ledger


def call(branch_id: str, payload: bytes = b"{}", **fields):
    return make_call(branch_id=branch_id, action="act", payload=payload, **fields)


async def test_a_named_result_is_returned_replayed_and_given_to_phase_two(named) -> None:
    caller, handlers, _ = named

    first = await caller.execute(call("a"), call("b"), call("c", b'{"unnamed": 1}'))
    assert [(each.code, each.result, each.content_type) for each in first] == [
        (SUCCEEDED, b"n0", "application/octet-stream"),
        (SUCCEEDED, b"n1", "application/octet-stream"),
        (SUCCEEDED, b"", ""),
    ]
    assert handlers.shown == [("a", b"n0"), ("b", b"n1"), ("c", b"")]

    # A duplicate is named again, beside a new branch; the row decides.
    again = await caller.execute(call("b"), call("d"))
    assert [each.result for each in again] == [b"n1", b"n3"]
    assert handlers.shown[3:] == [("d", b"n3")]

    await caller.execute(call("b", operation=CONFIRM))
    await caller.execute(call("d", operation=CANCEL))
    assert handlers.shown[4:] == [("b", b"n1"), ("d", b"n3")]


async def test_a_result_of_the_handler_replaces_the_named_one(named) -> None:
    caller, _, _ = named

    [first] = await caller.execute(call("a", b'{"own": 1}'))
    [again] = await caller.execute(call("a", b'{"own": 1}'))

    assert first.result == again.result == b"its own"


async def test_a_rejected_try_and_a_late_one_leave_nothing_of_it(named) -> None:
    caller, _, ledger = named
    await caller.execute(call("late", operation=CANCEL))

    rejected, kept, late = await caller.execute(call("no", b'{"reject": 1}'), call("yes"), call("late"))

    assert (rejected.code, rejected.reason, rejected.result) == (REJECTED, "NO", b"")
    assert (kept.code, kept.result) == (SUCCEEDED, b"n1")
    assert (late.code, late.reason, late.result) == (FAILED, "LATE_TRY", b"")
    assert ledger.rows() == [("late", 3), ("yes", 1)]
