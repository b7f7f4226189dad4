"""A postponed Try: what it changed is committed, it holds nothing while it waits, and it is run again."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tcc import Participant, Postponed
from tcc.participant import work
from tcc.participant.v1 import participant_pb2 as pb
from tests.barrier.test_barrier import CANCEL, CONFIRM, FAILED, SUCCEEDED, make_call
from tests.support.participant_databases import RECORD, Caller, Ledger


class Queue:
    """Postpones each Try until the test lets it go on, and records each run."""

    def __init__(self, until: Callable[[], Awaitable[object]] | None = None) -> None:
        self.free = asyncio.Event()
        self.arrived = asyncio.Event()
        self._until = until or self.free.wait

    async def try_batch(self, items, db):
        for branch, _ in items:
            await db.execute(RECORD, {"gid": branch.gid, "branch_id": branch.branch_id, "operation": "try"})
        self.arrived.set()
        return [
            {"gid": branch.gid} if self.free.is_set() or "free" in branch.gid else self._postponed()
            for branch, _ in items
        ]

    def _postponed(self) -> Postponed:
        return Postponed("BUSY", "another one is there", self._until)

    async def confirm_batch(self, items, db):
        pass

    async def cancel_batch(self, items, db):
        for branch, _ in items:
            await db.execute(
                RECORD, {"gid": branch.gid, "branch_id": branch.branch_id, "operation": "cancel"}
            )


def call(gid: str, **fields) -> pb.BranchCall:
    return make_call(gid=gid, action="act", **fields)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
async def caller(sqlite, call_participant, queue: Queue) -> Caller:
    """Over SQLite, where the SDK opens one transaction at a time."""
    return await call_participant(participant_of(sqlite, queue))


def participant_of(database: tuple[object, Ledger], queue: Queue) -> Participant:
    participant = Participant("test", database=database[0])
    participant.action("act", cancel_always=True)(queue)
    return participant


async def test_a_postponed_try_holds_no_transaction_and_is_run_again(
    caller: Caller, queue: Queue, sqlite
) -> None:
    waiting = asyncio.create_task(caller.try_(call("waits")))
    await queue.arrived.wait()
    assert (await caller.try_(call("free"))).code == SUCCEEDED
    assert sqlite[1].effects("waits") == ["try"]
    queue.free.set()
    result = await waiting
    assert (result.code, result.result) == (SUCCEEDED, b'{"gid":"waits"}')
    assert sqlite[1].effects("waits") == ["try", "try"]
    repeated = await caller.try_(call("waits"))
    assert repeated.result == result.result
    assert sqlite[1].effects("waits") == ["try", "try"]


async def test_postponing_one_try_of_a_batch_delays_no_other(caller: Caller, queue: Queue) -> None:
    calls = [call("waits"), call("free-1"), call("free-2")]
    answered: list[int] = []
    async for response in caller.stub.ExecuteBranches(pb.ExecuteBranchesRequest(calls=calls)):
        answered += [result.index for result in response.results]
        if len(answered) == 2:
            queue.free.set()
    assert answered == [1, 2, 0]


async def test_a_duplicate_of_a_postponed_try_gets_its_result(caller: Caller, queue: Queue, sqlite) -> None:
    waiting = asyncio.create_task(caller.try_(call("waits")))
    await queue.arrived.wait()
    duplicate = asyncio.create_task(caller.try_(call("waits", attempt=1)))
    await caller.try_(call("free"))
    queue.free.set()
    assert await duplicate == await waiting
    assert sqlite[1].effects("waits") == ["try", "try"]


async def test_a_cancel_finds_a_postponed_try_untried_and_ends_it(
    caller: Caller, queue: Queue, sqlite
) -> None:
    waiting = asyncio.create_task(caller.try_(call("waits")))
    await queue.arrived.wait()
    assert (await caller.cancel(call("waits", operation=CANCEL))).code == SUCCEEDED
    queue.free.set()
    result = await waiting
    assert (result.code, result.reason) == (FAILED, "LATE_TRY")
    assert sqlite[1].effects("waits") == ["cancel", "try"]


async def test_a_try_that_waits_too_long_is_left_to_the_coordinator(
    caller: Caller, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(work, "POSTPONED_MAX_S", 0.0)
    result = await caller.try_(call("waits"))
    assert (result.code, result.reason, result.message) == (FAILED, "BUSY", "another one is there")
    assert not result.permanent
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    queue.free.set()
    assert (await caller.try_(call("waits", attempt=1))).code == SUCCEEDED


async def test_an_error_of_what_a_try_waits_for_fails_the_call(sqlite, call_participant) -> None:
    async def broken() -> None:
        raise ValueError("broken")

    caller = await call_participant(participant_of(sqlite, Queue(until=broken)))
    result = await caller.try_(call("waits"))
    assert (result.code, result.reason, result.permanent) == (FAILED, "HANDLER_ERROR", False)


async def test_only_a_try_can_be_postponed(sqlite, call_participant) -> None:
    class PostponesConfirm(Queue):
        async def confirm_batch(self, items, db):
            return [self._postponed() for _ in items]

    caller = await call_participant(participant_of(sqlite, PostponesConfirm()))
    await caller.try_(call("free"))
    result = await caller.confirm(call("free", operation=CONFIRM))
    assert (result.code, result.reason, result.permanent) == (FAILED, "INVALID_RESULT", True)
