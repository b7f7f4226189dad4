"""Every cell of the barrier's decision table, over gRPC: all databases, sync and async, alone and batched."""

import asyncio
import time

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tcc import Participant, Rejected
from tcc.barrier.decisions import (
    CLAIMS,
    DECISIONS,
    WRITES,
    BarrierDecision,
    BarrierState,
    BranchKind,
    Operation,
)
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tests.support.participant_databases import RECORD, make_engine

TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL
SUCCEEDED, REJECTED, FAILED = (
    common.OUTCOME_CODE_SUCCEEDED,
    common.OUTCOME_CODE_REJECTED,
    common.OUTCOME_CODE_FAILED,
)


def _parameters(branch, operation):
    return {"gid": branch.gid, "branch_id": branch.branch_id, "operation": operation}


class AsyncSingle:
    async def try_(self, branch, request, db: AsyncConnection):
        await db.execute(RECORD, _parameters(branch, "try"))
        if "reject" in request:
            raise Rejected("SOLD_OUT", "none left")
        if "poison" in request:
            raise RuntimeError("poison")
        return {"freeze": branch.branch_id} if "result" in request else None

    async def confirm(self, branch, request, db):
        assert branch.tried
        await db.execute(RECORD, _parameters(branch, "confirm"))
        if "result" in request:
            assert branch.try_result_as(dict) == {"freeze": branch.branch_id}

    async def cancel(self, branch, request, db):
        await db.execute(RECORD, _parameters(branch, "cancel" if branch.tried else "untried"))


class SyncSingle:
    def try_(self, branch, request, db: Connection):
        db.execute(RECORD, _parameters(branch, "try"))
        if "reject" in request:
            raise Rejected("SOLD_OUT", "none left")
        if "poison" in request:
            raise RuntimeError("poison")
        return {"freeze": branch.branch_id} if "result" in request else None

    def confirm(self, branch, request, db):
        assert branch.tried
        db.execute(RECORD, _parameters(branch, "confirm"))
        if "result" in request:
            assert branch.try_result_as(dict) == {"freeze": branch.branch_id}

    def cancel(self, branch, request, db):
        db.execute(RECORD, _parameters(branch, "cancel" if branch.tried else "untried"))


def _batch_answer(items):
    if any("poison" in request for _, request in items):
        raise RuntimeError("poison")
    kept = [branch for branch, request in items if "reject" not in request]
    answers = [
        Rejected("SOLD_OUT", "none left")
        if "reject" in request
        else ({"freeze": branch.branch_id} if "result" in request else None)
        for branch, request in items
    ]
    return kept, answers


class AsyncBatch:
    async def try_batch(self, items, db):
        kept, answers = _batch_answer(items)
        if kept:
            await db.execute(RECORD, [_parameters(branch, "try") for branch in kept])
        return answers

    async def confirm_batch(self, items, db):
        await db.execute(RECORD, [_parameters(branch, "confirm") for branch, _ in items])

    async def cancel_batch(self, items, db):
        await db.execute(
            RECORD, [_parameters(branch, "cancel" if branch.tried else "untried") for branch, _ in items]
        )


class SyncBatch:
    def try_batch(self, items, db):
        kept, answers = _batch_answer(items)
        if kept:
            db.execute(RECORD, [_parameters(branch, "try") for branch in kept])
        return answers

    def confirm_batch(self, items, db):
        db.execute(RECORD, [_parameters(branch, "confirm") for branch, _ in items])

    def cancel_batch(self, items, db):
        db.execute(
            RECORD, [_parameters(branch, "cancel" if branch.tried else "untried") for branch, _ in items]
        )


def make_participant(engine) -> Participant:
    participant = Participant("ledger", database=engine)
    single, batch = (AsyncSingle, AsyncBatch) if isinstance(engine, AsyncEngine) else (SyncSingle, SyncBatch)
    participant.action("single")(single)
    participant.action("batch")(batch)
    participant.action("single_always", cancel_always=True)(single)
    participant.action("batch_always", cancel_always=True)(batch)
    return participant


def make_call(
    operation=TRY, gid="g", branch_id="b", action="single", payload=b"{}", **fields
) -> pb.BranchCall:
    return pb.BranchCall(
        operation=operation, gid=gid, branch_id=branch_id, action=action, payload=payload, **fields
    )


def _answer(outcome):
    return outcome.code, outcome.reason, outcome.permanent


DONE = (SUCCEEDED, "", False)
# The decision table from its documentation: how the row got its state, the call, the
# answer, and the state and effects afterwards.
CELLS = [
    ([], TRY, DONE, BarrierState.TRIED, ["try"]),
    ([TRY], TRY, DONE, BarrierState.TRIED, ["try"]),
    ([TRY, CONFIRM], TRY, DONE, BarrierState.CONFIRMED, ["confirm", "try"]),
    ([CANCEL], TRY, (FAILED, "LATE_TRY", True), BarrierState.CANCELLED, []),
    ([TRY, CANCEL], TRY, (FAILED, "LATE_TRY", True), BarrierState.CANCELLED, ["cancel", "try"]),
    ([], CONFIRM, (FAILED, "NOT_TRIED", False), None, []),
    ([TRY], CONFIRM, DONE, BarrierState.CONFIRMED, ["confirm", "try"]),
    ([TRY, CONFIRM], CONFIRM, DONE, BarrierState.CONFIRMED, ["confirm", "try"]),
    ([TRY, CANCEL], CONFIRM, (FAILED, "ALREADY_CANCELLED", True), BarrierState.CANCELLED, ["cancel", "try"]),
    ([CANCEL], CONFIRM, (FAILED, "ALREADY_CANCELLED", True), BarrierState.CANCELLED, []),
    ([], CANCEL, DONE, BarrierState.CANCELLED, []),
    ([TRY], CANCEL, DONE, BarrierState.CANCELLED, ["cancel", "try"]),
    ([TRY, CONFIRM], CANCEL, (FAILED, "ALREADY_CONFIRMED", True), BarrierState.CONFIRMED, ["confirm", "try"]),
    ([TRY, CANCEL], CANCEL, DONE, BarrierState.CANCELLED, ["cancel", "try"]),
    ([CANCEL], CANCEL, DONE, BarrierState.CANCELLED, []),
]


# The states that a row of a kind can have, and the calls that the kind has.
STATES = {
    BranchKind.TCC: {BarrierState.TRIED, BarrierState.CONFIRMED, BarrierState.CANCELLED},
    BranchKind.SAGA: {BarrierState.TRIED, BarrierState.CANCELLED},
    BranchKind.MESSAGE: {BarrierState.CONFIRMED},
}
OPERATIONS = {
    BranchKind.TCC: {Operation.TRY, Operation.CONFIRM, Operation.CANCEL},
    BranchKind.SAGA: {Operation.TRY, Operation.CANCEL, Operation.CHECK},
    BranchKind.MESSAGE: {Operation.CONFIRM},
}


@pytest.mark.parametrize("kind", BranchKind)
def test_decisions_cover_every_call_of_a_kind_in_every_state(kind):
    assert set(DECISIONS[kind]) == {
        (operation, state) for operation in OPERATIONS[kind] for state in (None, *STATES[kind])
    }


@pytest.mark.parametrize("kind", BranchKind)
def test_decisions_lead_to_no_state_that_a_kind_has_not(kind):
    written = {
        WRITES[operation]
        for (operation, state), decision in DECISIONS[kind].items()
        if decision is BarrierDecision.RUN or (state is None and operation in CLAIMS[kind])
    }

    assert written == STATES[kind]


@pytest.mark.parametrize("action", ["single", "batch"])
async def test_every_cell_of_the_decision_table(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    method = {TRY: caller.try_, CONFIRM: caller.confirm, CANCEL: caller.cancel}

    for number, (history, operation, answer, state, effects) in enumerate(CELLS):
        gid, branch_id = f"g{number}", f"b{number:02}"
        fields = {"gid": gid, "branch_id": branch_id, "action": action, "payload": b'{"result": 1}'}
        for earlier in history:
            assert _answer(await method[earlier](make_call(earlier, **fields))) == DONE

        outcome = await method[operation](make_call(operation, **fields))

        cell = f"{history} then {operation}"
        assert _answer(outcome) == answer, cell
        assert ledger.effects(gid) == effects, cell
        assert dict(ledger.rows()).get(branch_id) == state, cell
        if operation == TRY and outcome.code == SUCCEEDED:
            assert outcome.result == b'{"freeze":"%s"}' % branch_id.encode(), cell
            assert outcome.content_type == "application/json"


@pytest.mark.parametrize("action", ["single", "batch"])
async def test_mixed_batch_answers_each_item_by_the_decision_table(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))

    def call(operation, branch_id, payload=b"{}"):
        return make_call(operation, branch_id=branch_id, action=action, payload=payload)

    first = await caller.execute(
        *(call(TRY, f"t{number}") for number in range(5)), call(TRY, "r", b'{"reject": 1}'), call(CANCEL, "c")
    )
    second = await caller.execute(
        call(TRY, "t0"), call(CONFIRM, "t1"), call(CANCEL, "t2"), call(CONFIRM, "c"), call(CONFIRM, "n"),
        call(TRY, "r", b'{"reject": 1}'), call(TRY, "c"), call(TRY, "new"), call(CANCEL, "empty"),
    )  # fmt: skip

    assert [_answer(outcome) for outcome in first] == [*[DONE] * 5, (REJECTED, "SOLD_OUT", False), DONE]
    assert [_answer(outcome) for outcome in second] == [
        DONE, DONE, DONE, (FAILED, "ALREADY_CANCELLED", True), (FAILED, "NOT_TRIED", False),
        (REJECTED, "SOLD_OUT", False), (FAILED, "LATE_TRY", True), DONE, DONE,
    ]  # fmt: skip
    assert ledger.effects("g") == ["cancel", "confirm", *["try"] * 6]
    assert dict(ledger.rows()) == {
        "t0": 1, "t1": 2, "t2": 3, "t3": 1, "t4": 1, "c": 3, "new": 1, "empty": 3,
    }  # fmt: skip


@pytest.mark.parametrize("action", ["single", "batch"])
async def test_rejected_try_leaves_no_trace_and_may_be_tried_again(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))

    outcome = await caller.try_(make_call(action=action, payload=b'{"reject": 1}'))

    assert (outcome.code, outcome.reason, outcome.message) == (REJECTED, "SOLD_OUT", "none left")
    assert ledger.effects("g") == []
    assert ledger.rows() == []
    assert _answer(await caller.try_(make_call(action=action))) == DONE


async def test_rejected_items_of_a_batch_leave_no_row(database, call_participant):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))

    outcomes = await caller.execute(
        make_call(branch_id="kept", action="batch", payload=b'{"result": 1}'),
        make_call(branch_id="rejected", action="batch", payload=b'{"reject": 1}'),
    )

    assert [outcome.code for outcome in outcomes] == [SUCCEEDED, REJECTED]
    assert ledger.rows() == [("kept", 1)]


async def test_one_poison_item_does_not_fail_the_rest_of_its_batch(database, call_participant):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))

    outcomes = await caller.execute(
        *(
            make_call(
                branch_id=f"b{number}", action="batch", payload=b'{"poison": 1}' if number == 2 else b"{}"
            )
            for number in range(5)
        )
    )

    assert [outcome.code for outcome in outcomes] == [SUCCEEDED, SUCCEEDED, FAILED, SUCCEEDED, SUCCEEDED]
    assert outcomes[2].reason == "HANDLER_ERROR"
    assert not outcomes[2].permanent
    assert ledger.effects("g") == ["try"] * 4


async def test_try_past_its_expiry_is_refused_and_leaves_no_row(database, call_participant):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    now_ms = int(time.time() * 1000)
    late, timely = {"expires_at_ms": now_ms - 60_000}, {"expires_at_ms": now_ms + 60_000}

    outcomes = await caller.execute(
        make_call(branch_id="single", **late),
        make_call(branch_id="batch", action="batch", **late),
        make_call(branch_id="batch_timely", action="batch", **timely),
        make_call(branch_id="single_timely", **timely),
    )

    expired = (FAILED, "EXPIRED", True)
    assert [_answer(outcome) for outcome in outcomes] == [expired, expired, DONE, DONE]
    assert [branch_id for branch_id, _ in ledger.rows()] == ["batch_timely", "single_timely"]


async def test_duplicate_try_past_the_expiry_is_still_replayed(database, call_participant):
    engine, _ = database
    caller = await call_participant(make_participant(engine))
    await caller.try_(make_call())

    assert _answer(await caller.try_(make_call(expires_at_ms=1))) == DONE


@pytest.mark.parametrize("operation", [TRY, CONFIRM, CANCEL])
async def test_same_branch_under_another_action_is_refused(database, call_participant, operation):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    await caller.try_(make_call(action="single"))

    [outcome] = await caller.execute(make_call(operation, action="batch"))

    assert _answer(outcome) == (FAILED, "BRANCH_CONFLICT", True)
    assert ledger.effects("g") == ["try"]


@pytest.mark.parametrize("action", ["single_always", "batch_always"])
async def test_cancel_always_runs_on_an_empty_cancel_once(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))

    for _ in range(2):
        assert _answer(await caller.cancel(make_call(CANCEL, action=action))) == DONE

    assert ledger.effects("g") == ["untried"]


@pytest.mark.parametrize("action", ["single", "batch"])
async def test_concurrent_duplicates_take_effect_once(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))

    for operation in (TRY, CONFIRM):
        calls = [
            make_call(operation, gid=f"g{number}", action=action, payload=b'{"result": 1}')
            for number in range(4)
        ]
        answers = await asyncio.gather(*(caller.execute(*order) for order in (calls, calls[::-1]) * 2))
        assert {outcome.code for outcomes in answers for outcome in outcomes} == {SUCCEEDED}

    assert [ledger.effects(f"g{number}") for number in range(4)] == [["confirm", "try"]] * 4


@pytest.mark.parametrize("action", ["single", "batch"])
async def test_same_call_twice_in_one_batch_takes_effect_once(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))

    for operation in (TRY, CONFIRM):
        call = make_call(operation, action=action)
        outcomes = await caller.execute(call, call, call)
        assert [outcome.code for outcome in outcomes] == [SUCCEEDED] * 3

    assert ledger.effects("g") == ["confirm", "try"]


async def test_two_processes_on_one_sqlite_file_take_turns(sqlite, call_participant):
    """Two engines stand for two processes: nothing but the file is between them."""
    engine, ledger = sqlite
    callers = [
        await call_participant(make_participant(each))
        for each in (engine, make_engine("sqlite-async", engine.url))
    ]
    gids = [f"g{number}" for number in range(30)]

    for operation in (TRY, CONFIRM):
        calls = [make_call(operation, gid=gid) for gid in gids]
        answers = await asyncio.gather(*(caller.execute(*calls) for caller in callers))
        assert {outcome.code for outcomes in answers for outcome in outcomes} == {SUCCEEDED}

    assert [ledger.effects(gid) for gid in gids] == [["confirm", "try"]] * len(gids)


@pytest.mark.parametrize("action", ["single", "batch"])
async def test_racing_try_and_cancel_end_with_nothing_reserved(database, call_participant, action):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    gids = [f"g{number}" for number in range(12)]

    tries, cancels = await asyncio.gather(
        caller.execute(*(make_call(TRY, gid=gid, action=action) for gid in gids)),
        caller.execute(*(make_call(CANCEL, gid=gid, action=action) for gid in reversed(gids))),
    )

    assert {outcome.code for outcome in cancels} == {SUCCEEDED}
    assert {_answer(outcome) for outcome in tries} <= {DONE, (FAILED, "LATE_TRY", True)}
    for gid, tried in zip(gids, tries, strict=True):
        assert ledger.effects(gid) == (["cancel", "try"] if tried.code == SUCCEEDED else [])


async def test_keys_are_compared_byte_by_byte(database, call_participant):
    engine, ledger = database
    caller = await call_participant(make_participant(engine))
    keys = ["a", "A", "a ", "å", "a\N{COMBINING RING ABOVE}", "'\"\\", "日本"]

    outcomes = await caller.execute(*(make_call(branch_id=key, action="batch") for key in keys))

    assert [outcome.code for outcome in outcomes] == [SUCCEEDED] * len(keys)
    assert {key for key, _ in ledger.rows()} == set(keys)
