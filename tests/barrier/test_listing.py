"""ListBranches: the rows of the barrier on every database; and Confirm and Cancel without a payload."""

import contextlib
import time
from importlib import metadata

import grpc
import pytest
from sqlalchemy import text

from tcc import Participant
from tcc.barrier import listing
from tcc.barrier.decisions import BarrierState
from tcc.barrier.listing import Listing, Position
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tcc.payload import UNKNOWN
from tests.support.participant_databases import RECORD

from .test_barrier import AsyncSingle, _answer, _parameters, make_call, make_participant

TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL
TRIED, CONFIRMED, CANCELLED = (
    common.BARRIER_STATE_TRIED,
    common.BARRIER_STATE_CONFIRMED,
    common.BARRIER_STATE_CANCELLED,
)
DAY_MS = 24 * 3_600_000


async def listed(caller, **fields) -> list[tuple[str, str, int]]:
    """All pages."""
    rows, request = [], pb.ListBranchesRequest(**fields)
    while True:
        page = await caller.stub.ListBranches(request)
        rows += [(row.gid, row.branch_id, row.state) for row in page.rows]
        request.page_token = page.next_page_token
        if not request.page_token:
            return rows


async def make_rows(caller) -> None:
    """Open branches "o1" to "o3", a confirmed "c", a cancelled "x"; none has an expiry."""
    for branch_id in ("o3", "o1", "o2", "c", "x"):
        await caller.try_(make_call(branch_id=branch_id))
    await caller.confirm(make_call(CONFIRM, branch_id="c"))
    await caller.cancel(make_call(CANCEL, branch_id="x"))


OPEN = [("g", "o1", TRIED), ("g", "o2", TRIED), ("g", "o3", TRIED)]


async def test_rows_are_listed_by_state_in_pages(database, call_participant) -> None:
    caller = await call_participant(make_participant(database[0]))
    await make_rows(caller)
    assert await listed(caller) == OPEN
    assert await listed(caller, page_size=1) == OPEN
    ended = [("g", "c", CONFIRMED), ("g", "x", CANCELLED)]
    assert await listed(caller, states=[CONFIRMED, CANCELLED]) == ended
    assert sorted(await listed(caller, states=[TRIED, CONFIRMED, CANCELLED], page_size=2)) == sorted(
        OPEN + ended
    )
    keys = [pb.BranchKey(gid="g", branch_id=branch_id) for branch_id in ("x", "o2", "no")]
    assert sorted(await listed(caller, keys=keys)) == [("g", "o2", TRIED), ("g", "x", CANCELLED)]


async def test_a_participant_describes_itself_by_its_databases_clock(database, call_participant) -> None:
    participant = make_participant(database[0])
    caller = await call_participant(participant)
    before_ms = time.time_ns() // 1_000_000
    info = await caller.stub.GetParticipantInfo(pb.GetParticipantInfoRequest())
    after_ms = time.time_ns() // 1_000_000
    # The database runs here. MySQL's clock counts whole seconds.
    assert before_ms - 1_000 <= info.server_time.ToMilliseconds() <= after_ms
    assert (info.participant, info.sdk) == (participant.name, f"tcc-python/{metadata.version('tcc')}")
    names = [action.name for action in info.actions]
    assert names == sorted(names)
    assert "batch" in names


async def test_a_row_has_its_action_and_its_age(database, call_participant) -> None:
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    await caller.try_(make_call(action="batch"))
    ledger.execute(f"UPDATE tcc_barrier SET updated_at_ms = updated_at_ms - {DAY_MS}")
    [row] = (await caller.stub.ListBranches(pb.ListBranchesRequest())).rows
    assert row.action == "batch"
    assert DAY_MS <= row.age_ms < 2 * DAY_MS


async def test_ages_narrow_by_expiry_and_by_last_change(database, call_participant) -> None:
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    for branch_id in ("fresh", "changed", "live", "old"):
        await caller.try_(make_call(branch_id=branch_id))
    ages = {"fresh": (0, 0), "changed": (3, 0), "live": (-1, 3), "old": (3, 3)}
    for branch_id, (expired, changed) in ages.items():
        ledger.execute(
            f"UPDATE tcc_barrier SET expires_at_ms = updated_at_ms - {expired * DAY_MS}, "
            f"updated_at_ms = updated_at_ms - {changed * DAY_MS} WHERE branch_id = '{branch_id}'"
        )

    async def found(**fields: int) -> list[str]:
        return sorted(branch_id for _, branch_id, _ in await listed(caller, **fields))

    # What has not expired may still be decided, however old it is.
    assert await found() == ["changed", "fresh", "old"]
    assert await found(min_age_ms=DAY_MS) == ["old"]
    assert await found(max_age_ms=2 * DAY_MS) == ["fresh"]
    assert await found(min_age_ms=DAY_MS, max_age_ms=2 * DAY_MS) == []
    assert await found(min_age_ms=DAY_MS, max_age_ms=4 * DAY_MS) == ["old"]


async def test_a_page_looks_at_a_bounded_number_of_rows(database, call_participant) -> None:
    """Five rows, of which two are wanted: pages that scan two rows, matching or not."""
    engine, ledger = database
    participant = make_participant(engine)
    caller = await call_participant(participant)
    for number, branch_id in enumerate(("c1", "c2", "o1", "c3", "o2")):
        await caller.try_(make_call(branch_id=branch_id))
        if branch_id.startswith("c"):
            await caller.confirm(make_call(CONFIRM, branch_id=branch_id))
        ledger.execute(
            f"UPDATE tcc_barrier SET expires_at_ms = {number // 2} WHERE branch_id = '{branch_id}'"
        )
    executor, pages, after = participant._executor, [], None
    while True:
        asked = Listing(after=after)
        rows, after = await executor.transact(
            lambda asked=asked: listing.list_rows(executor.dialect_name, asked, rows_scanned_max=2),
            None,
        )
        pages.append([row.branch_id for row in rows])
        if after is None:
            break
    assert pages == [[], ["o1"], ["o2"]]


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListBranchesRequest(page_token="what"),
        pb.ListBranchesRequest(page_token=listing.page_token(Position("x", 1, 2))),
        pb.ListBranchesRequest(states=[7]),
        pb.ListBranchesRequest(keys=[pb.BranchKey(gid=str(n)) for n in range(1_001)]),
    ],
)
async def test_what_cannot_be_listed_is_refused(sqlite, call_participant, request_) -> None:
    caller = await call_participant(make_participant(sqlite[0]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.stub.ListBranches(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_listing_walks_the_index_by_expiry(postgresql, call_participant) -> None:
    """Few open rows among many that have ended: no statement reads the whole table."""
    engine, ledger = postgresql
    caller = await call_participant(make_participant(engine))
    ledger.execute(
        "INSERT INTO tcc_barrier (gid, branch_id, action, state, expires_at_ms, updated_at_ms) "
        "SELECT 'g' || n, 'b', 'single', CASE WHEN n % 1000 = 7 THEN 1 ELSE 2 END, n, 0 "
        "FROM generate_series(1, 30000) AS n"
    )
    found = await listed(caller, page_size=7)
    assert [gid for gid, _, _ in found] == [f"g{n}" for n in range(7, 30_000, 1_000)]
    plan, answer, explained = listing.list_rows("postgresql", Listing()), None, []
    async with engine.begin() as db:
        with contextlib.suppress(StopIteration):
            while True:
                statement = plan.send(answer)
                answer = (await db.execute(text(statement.text), statement.parameters)).all()
                rows = await db.execute(text(f"EXPLAIN {statement.text}"), statement.parameters)
                explained.append("\n".join(line for (line,) in rows))
    looks = [each for each in explained if "tcc_barrier" in each]
    assert len(looks) == 2
    assert all("using tcc_barrier_expires_at_ms" in each for each in looks), looks


# Ends without a payload


class ByBranch(AsyncSingle):
    async def confirm(self, branch, request, db):
        assert request is None
        await db.execute(RECORD, _parameters(branch, "confirm"))

    async def cancel(self, branch, request, db):
        assert request is None
        await db.execute(RECORD, _parameters(branch, "cancel"))


class InLanes(ByBranch):
    def partition_key(self, request):
        return len(request)

    async def cancel_batch(self, items, db):
        for branch, request in items:
            await self.cancel(branch, request, db)


def payloadless(operation, **fields) -> pb.BranchCall:
    return make_call(operation, payload=b"", content_type=UNKNOWN, **fields)


@pytest.mark.parametrize("handlers", [ByBranch, InLanes])
async def test_an_action_that_needs_no_request_ends_a_branch_without_it(
    sqlite, call_participant, handlers
) -> None:
    engine, ledger = sqlite
    participant = Participant("test", database=engine)
    participant.action("single", needs_request=False)(handlers)
    caller = await call_participant(participant)
    for gid, operation in (("a", CONFIRM), ("b", CANCEL)):
        await caller.try_(make_call(gid=gid))
        [outcome] = await caller.execute(payloadless(operation, gid=gid))
        assert _answer(outcome) == (common.OUTCOME_CODE_SUCCEEDED, "", False)
    assert ledger.effects("a") == ["confirm", "try"]
    assert ledger.effects("b") == ["cancel", "try"]


async def test_an_action_that_needs_the_request_is_not_called_without_it(sqlite, call_participant) -> None:
    """A decoded nothing would look like a request for nothing, and the reservation would be lost for good."""
    engine, ledger = sqlite
    caller = await call_participant(make_participant(engine))
    await caller.try_(make_call())
    for operation in (CONFIRM, CANCEL):
        [outcome] = await caller.execute(payloadless(operation))
        assert _answer(outcome) == (common.OUTCOME_CODE_FAILED, "PAYLOAD_NEEDED", True)
    assert ledger.rows() == [("b", BarrierState.TRIED)]
    # With what was tried it can be ended.
    [outcome] = await caller.execute(make_call(CANCEL))
    assert outcome.code == common.OUTCOME_CODE_SUCCEEDED
    # What has ended already needs no payload any more.
    [outcome] = await caller.execute(payloadless(CANCEL))
    assert outcome.code == common.OUTCOME_CODE_SUCCEEDED
    assert ledger.effects("g") == ["cancel", "try"]


async def test_nothing_is_tried_without_a_request(sqlite, call_participant) -> None:
    participant = Participant("test", database=sqlite[0])
    participant.action("single", needs_request=False)(ByBranch)
    caller = await call_participant(participant)
    [outcome] = await caller.execute(payloadless(TRY))
    assert _answer(outcome) == (common.OUTCOME_CODE_FAILED, "PAYLOAD_NEEDED", True)
    assert await listed(caller) == []
