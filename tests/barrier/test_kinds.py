"""The barrier's decision tables for SAGA and MESSAGE, over gRPC: all databases, sync and async."""

import time

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tcc import Participant, Rejected
from tcc.barrier.decisions import BarrierState
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tests.barrier.test_barrier import (
    DONE,
    FAILED,
    REJECTED,
    SUCCEEDED,
    _answer,
    _parameters,
    make_participant,
)
from tests.support.participant_databases import RECORD

TRY, CONFIRM, CANCEL, CHECK = (
    common.OPERATION_TRY,
    common.OPERATION_CONFIRM,
    common.OPERATION_CANCEL,
    common.OPERATION_CHECK,
)
TCC, SAGA, MESSAGE = common.BRANCH_KIND_TCC, common.BRANCH_KIND_SAGA, common.BRANCH_KIND_MESSAGE
DAY_MS = 86_400_000


class AsyncSaga:
    async def execute(self, branch, request, db):
        await db.execute(RECORD, _parameters(branch, "try"))
        if "reject" in request:
            raise Rejected("DECLINED")
        return {"charge": branch.branch_id}

    async def compensate(self, branch, request, db):
        if branch.tried:
            assert branch.try_result_as(dict) == {"charge": branch.branch_id}
        await db.execute(RECORD, _parameters(branch, "cancel" if branch.tried else "untried"))


class SyncSaga:
    def execute(self, branch, request, db):
        db.execute(RECORD, _parameters(branch, "try"))
        if "reject" in request:
            raise Rejected("DECLINED")
        return {"charge": branch.branch_id}

    def compensate(self, branch, request, db):
        if branch.tried:
            assert branch.try_result_as(dict) == {"charge": branch.branch_id}
        db.execute(RECORD, _parameters(branch, "cancel" if branch.tried else "untried"))


class AsyncSagaBatch:
    async def execute_batch(self, items, db):
        for branch, _ in items:
            await db.execute(RECORD, _parameters(branch, "try"))

    async def compensate_batch(self, items, db):
        for branch, _ in items:
            await db.execute(RECORD, _parameters(branch, "cancel" if branch.tried else "untried"))


class SyncSagaBatch:
    def execute_batch(self, items, db):
        for branch, _ in items:
            db.execute(RECORD, _parameters(branch, "try"))

    def compensate_batch(self, items, db):
        for branch, _ in items:
            db.execute(RECORD, _parameters(branch, "cancel" if branch.tried else "untried"))


async def deliver_async(branch, request, db):
    await db.execute(RECORD, _parameters(branch, "confirm"))


def deliver_sync(branch, request, db):
    db.execute(RECORD, _parameters(branch, "confirm"))


class AsyncDeliverBatch:
    async def deliver_batch(self, items, db):
        await db.execute(RECORD, [_parameters(branch, "confirm") for branch, _ in items])


class SyncDeliverBatch:
    def deliver_batch(self, items, db):
        db.execute(RECORD, [_parameters(branch, "confirm") for branch, _ in items])


def make_kinds(engine, **settings) -> Participant:
    participant = Participant("ledger", database=engine, **settings)
    is_async = isinstance(engine, AsyncEngine)
    single, batch = (AsyncSaga, AsyncSagaBatch) if is_async else (SyncSaga, SyncSagaBatch)
    participant.saga("charge")(single)
    participant.saga("charge_batch")(batch)
    participant.saga("charge_always", compensate_always=True)(single)
    participant.message("mail")(deliver_async if is_async else deliver_sync)
    participant.message("mail_batch")(AsyncDeliverBatch if is_async else SyncDeliverBatch)
    return participant


def saga(operation, gid="g", action="charge", **fields) -> pb.BranchCall:
    return pb.BranchCall(
        operation=operation,
        **{"gid": gid, "branch_id": "b", "action": action, "payload": b"{}", "kind": SAGA} | fields,
    )


def message(operation=CONFIRM, gid="g", action="mail", **fields) -> pb.BranchCall:
    return saga(operation, gid, action, **{"kind": MESSAGE} | fields)


def check(gid="g", **fields) -> pb.BranchCall:
    return saga(CHECK, gid, "local", **fields)


LATE = (FAILED, "LATE_TRY", True)
NOT_TRIED = (REJECTED, "NOT_TRIED", False)
TRIED, CONFIRMED, CANCELLED = BarrierState
SAGA_CELLS = [
    ([], TRY, DONE, TRIED, ["try"]),
    ([TRY], TRY, DONE, TRIED, ["try"]),
    ([CANCEL], TRY, LATE, CANCELLED, []),
    ([TRY, CANCEL], TRY, LATE, CANCELLED, ["cancel", "try"]),
    ([], CANCEL, DONE, CANCELLED, []),
    ([TRY], CANCEL, DONE, CANCELLED, ["cancel", "try"]),
    ([TRY, CANCEL], CANCEL, DONE, CANCELLED, ["cancel", "try"]),
    ([CANCEL], CANCEL, DONE, CANCELLED, []),
    ([], CHECK, NOT_TRIED, CANCELLED, []),
    ([TRY], CHECK, DONE, TRIED, ["try"]),
    ([CHECK], CHECK, NOT_TRIED, CANCELLED, []),
    ([CHECK], TRY, LATE, CANCELLED, []),
    ([CHECK], CANCEL, DONE, CANCELLED, []),
    ([TRY, CANCEL], CHECK, NOT_TRIED, CANCELLED, ["cancel", "try"]),
]


@pytest.mark.parametrize("action", ["charge", "charge_batch"])
async def test_every_cell_of_the_sagas_table(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_kinds(engine))

    for number, (history, operation, answer, state, effects) in enumerate(SAGA_CELLS):
        gid = f"g{number}"
        for earlier in history:
            await caller.execute(saga(earlier, gid, action))
        [outcome] = await caller.execute(saga(operation, gid, action))
        assert _answer(outcome) == answer, (history, operation)
        assert ledger.effects(gid) == effects, (history, operation)
        assert ledger.state(gid) == state, (history, operation)


@pytest.mark.parametrize("action", ["mail", "mail_batch"])
async def test_every_cell_of_the_messages_table(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_kinds(engine))

    for _ in range(2):
        assert _answer(await caller.confirm(message(action=action))) == DONE
        assert ledger.effects("g") == ["confirm"]
        assert ledger.state("g") == CONFIRMED
    outcomes = await caller.execute(*(message(gid=gid, action=action) for gid in ("g", "h", "i")))
    assert [_answer(outcome) for outcome in outcomes] == [DONE] * 3
    assert [ledger.effects(gid) for gid in ("g", "h", "i")] == [["confirm"]] * 3


async def test_a_rejected_saga_leaves_no_row(database, call_participant):
    engine, ledger = database
    caller = await call_participant(make_kinds(engine))

    outcome = await caller.try_(saga(TRY, payload=b'{"reject": 1}'))

    assert _answer(outcome) == (REJECTED, "DECLINED", False)
    assert (ledger.effects("g"), ledger.rows()) == ([], [])


async def test_compensate_always_runs_without_an_execute(sqlite, call_participant):
    engine, ledger = sqlite
    caller = await call_participant(make_kinds(engine))

    for _ in range(2):
        assert _answer(await caller.cancel(saga(CANCEL, action="charge_always"))) == DONE

    assert ledger.effects("g") == ["untried"]


async def test_check_of_a_committed_branch_and_of_none(database, call_participant):
    engine, ledger = database
    caller = await call_participant(make_kinds(engine))
    ledger.execute(
        "INSERT INTO tcc_barrier (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms) "
        "VALUES ('g', 'b', 'local', 2, 1, 0, 0)"
    )

    for kind in (SAGA, common.BRANCH_KIND_UNSPECIFIED):
        assert _answer(await caller.check(check(kind=kind))) == DONE
        assert _answer(await caller.check(check("none", kind=kind))) == NOT_TRIED
    assert [ledger.state("g"), ledger.state("none")] == [TRIED, CANCELLED]


async def test_check_waits_for_no_open_local_transaction(database, call_participant):
    """Neither a reply that guesses, nor one after the lock's usual timeout (50 s, or never)."""
    engine, ledger = database
    participant = make_kinds(engine)
    caller = await call_participant(participant)

    with ledger.transaction() as db:
        db.execute(
            text(
                "INSERT INTO tcc_barrier (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms) "
                "VALUES ('g', 'b', 'local', 2, 1, 0, 0)"
            )
        )
        outcome = await caller.check(check())
        assert _answer(outcome) == (FAILED, "LOCAL_TRANSACTION_OPEN", False)
    assert _answer(await caller.check(check())) == DONE


@pytest.mark.parametrize(
    "call",
    [
        saga(CONFIRM),
        message(TRY),
        message(CANCEL),
        message(CHECK),
        saga(TRY, action="mail"),
        saga(TRY, kind=TCC),
        saga(TRY, kind=common.BRANCH_KIND_UNSPECIFIED),
        saga(TRY, kind=77),
        message(action="charge"),
    ],
    ids=str,
)
async def test_a_call_of_the_wrong_kind_is_refused(sqlite, call_participant, call):
    engine, ledger = sqlite
    caller = await call_participant(make_kinds(engine))

    [outcome] = await caller.execute(call)

    assert _answer(outcome) == (FAILED, "WRONG_KIND", True)
    assert (ledger.effects("g"), ledger.rows()) == ([], [])


async def test_a_cancel_of_the_wrong_kind_that_finds_nothing_succeeds(sqlite, call_participant):
    """Its Try was refused for the same reason, and its transaction must end."""
    engine, ledger = sqlite
    caller = await call_participant(make_kinds(engine))

    assert _answer(await caller.cancel(saga(CANCEL, kind=TCC))) == DONE

    assert ledger.state("g") == CANCELLED


async def test_a_branch_of_another_kind_is_a_conflict(database, call_participant):
    engine, _ = database
    caller = await call_participant(make_kinds(engine))
    await caller.execute(saga(TRY), message(gid="m", action="mail"))

    [by_tcc] = await caller.execute(saga(CANCEL, kind=TCC))
    [by_saga] = await caller.execute(saga(CANCEL, "m", "mail"))

    assert _answer(by_tcc) == _answer(by_saga) == (FAILED, "BRANCH_CONFLICT", True)


async def test_a_row_of_an_older_version_is_tcc(database, call_participant):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    await caller.try_(saga(TRY, action="single", kind=TCC))
    ledger.execute("UPDATE tcc_barrier SET kind = NULL")

    assert [row.kind for row in (await caller.stub.ListBranches(pb.ListBranchesRequest())).rows] == [TCC]
    assert _answer(await caller.confirm(saga(CONFIRM, action="single", kind=TCC))) == DONE


async def test_rows_are_listed_with_their_kinds(sqlite, call_participant):
    caller = await call_participant(make_kinds(sqlite[0]))
    await caller.execute(saga(TRY), message(gid="m"))

    rows = (await caller.stub.ListBranches(pb.ListBranchesRequest(states=[1, 2]))).rows
    found = await caller.stub.ListBranches(
        pb.ListBranchesRequest(keys=[pb.BranchKey(gid="m", branch_id="b")])
    )

    assert sorted((row.gid, row.kind) for row in rows) == [("g", SAGA), ("m", MESSAGE)]
    assert [row.kind for row in found.rows] == [MESSAGE]


async def test_a_sagas_row_is_purged_long_after_its_expiry(database, call_participant):
    engine, ledger = database
    participant = make_kinds(engine, retention_s=86_400)
    caller = await call_participant(participant)
    for gid in ("old", "young", "endless"):
        await caller.try_(saga(TRY, gid))
    await caller.confirm(message(gid="sent"))
    ledger.execute("UPDATE tcc_barrier SET updated_at_ms = 1")
    ledger.execute("UPDATE tcc_barrier SET expires_at_ms = 1 WHERE gid IN ('old', 'sent')")
    soon_ms = int(time.time() * 1000) - DAY_MS + 600_000
    ledger.execute(f"UPDATE tcc_barrier SET expires_at_ms = {soon_ms} WHERE gid = 'young'")

    assert await participant.purge_once() == 2

    assert {gid: ledger.state(gid) for gid in ("old", "young", "endless", "sent")} == {
        "old": None,
        "young": TRIED,
        "endless": TRIED,
        "sent": None,
    }


@pytest.mark.parametrize("make_call", [lambda **fields: saga(CANCEL, **fields), check])
async def test_a_call_after_the_retention_does_not_guess(database, call_participant, make_call):
    """Its row may have been purged, so that an empty Cancel would leave a charge for good."""
    engine, ledger = database
    caller = await call_participant(make_kinds(engine, retention_s=86_400))
    now_ms = int(time.time() * 1000)

    [late] = await caller.execute(make_call(expires_at_ms=now_ms - DAY_MS - 60_000))
    rows = ledger.rows()
    [timely] = await caller.execute(make_call(expires_at_ms=now_ms - DAY_MS + 600_000))

    assert _answer(late) == (FAILED, "ROW_PURGED", True)
    assert rows == []
    assert timely.code == (REJECTED if timely.reason else SUCCEEDED)
    assert ledger.state("g") == CANCELLED
