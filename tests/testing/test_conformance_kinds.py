"""The conformance cases for sagas, messages and CheckBranch accept the SDK, and catch its faults."""

import pytest

from tcc.barrier import decisions
from tcc.barrier.decisions import BarrierDecision, BarrierState, Operation
from tcc.common.v1 import common_pb2 as common
from tcc.participant import work
from tcc.testing import conformance, conformance_kinds
from tests.barrier.test_barrier import AsyncSingle
from tests.barrier.test_kinds import make_kinds

CASES = [case for case in conformance.CASES if case.check.__module__ == conformance_kinds.__name__]
SAGA, MESSAGE = decisions.SAGA_DECISIONS, decisions.MESSAGE_DECISIONS
RUN = BarrierDecision.RUN


async def broken(sqlite, call_participant) -> set[str]:
    """Return the cases that a participant of the SDK breaks."""
    engine, ledger = sqlite
    participant = make_kinds(engine)
    participant.action("reserve")(AsyncSingle)
    await call_participant(participant)

    async def executed(gid, branch_id):
        done = ledger.effects(gid)
        return done.count("try") - done.count("cancel")

    async def delivered(gid, branch_id):
        return ledger.effects(gid).count("confirm")

    found = set()
    for case in CASES:
        try:
            skipped = await conformance.check(
                f"127.0.0.1:{participant.port}",
                case,
                action="reserve",
                payload=b"{}",
                saga=conformance.Kind(action="charge", payload=b"{}", count=executed),
                message=conformance.Kind(action="mail", payload=b"{}", count=delivered),
            )
            assert not skipped
        except conformance.ConformanceError:
            found.add(case.name)
    return found


async def test_the_sdk_conforms(sqlite, call_participant):
    assert len(CASES) == 7
    assert await broken(sqlite, call_participant) == set()


@pytest.mark.parametrize(
    ("fault", "cases"),
    [
        ((SAGA, (Operation.TRY, BarrierState.TRIED), RUN), {"saga_executes_once"}),
        ((SAGA, (Operation.CANCEL, BarrierState.TRIED), BarrierDecision.DONE), {"saga_compensates_once"}),
        (
            (SAGA, (Operation.TRY, BarrierState.CANCELLED), RUN),
            {"saga_compensates_once", "saga_never_executed", "check_after_try"},
        ),
        ((MESSAGE, (Operation.CONFIRM, BarrierState.CONFIRMED), RUN), {"message_delivered_once"}),
        ((SAGA, (Operation.CHECK, None), BarrierDecision.TRY_FOUND), {"check_without_try"}),
    ],
    ids=[
        "executes twice",
        "does not compensate",
        "accepts a late Try",
        "delivers twice",
        "guesses at a Check",
    ],
)
async def test_a_wrong_cell_is_caught(sqlite, call_participant, monkeypatch, fault, cases):
    monkeypatch.setitem(*fault)
    assert await broken(sqlite, call_participant) == cases


async def test_a_participant_that_takes_any_call_is_caught(sqlite, call_participant, monkeypatch):
    for operation in Operation:
        for kind in decisions.BranchKind:
            monkeypatch.setitem(work._CALLS, (int(operation), int(kind)), (operation, kind))
    assert "kinds_apart" in await broken(sqlite, call_participant)


def test_the_kinds_of_the_suite_are_those_of_the_contract():
    assert {common.BranchKind.Name(kind) for kind in decisions.BranchKind} == {
        "BRANCH_KIND_TCC",
        "BRANCH_KIND_SAGA",
        "BRANCH_KIND_MESSAGE",
    }
