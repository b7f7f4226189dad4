"""Situations with a name, each on every database, sync and async."""

from contextlib import ExitStack

import pytest

from tests.support.participant_databases import DRIVERS

from .endings import BARE_NEXT, CANCELLED_AWAIT, RETURNS_NOTHING, UNENCODABLE, Ending, Raise, Return
from .oracle import FAILED, REJECTED, SUCCEEDED
from .programs import CANCEL, CONFIRM, TRY, Caller, Program
from .rig import PATIENCE_S, Rig
from .steps import CALLS, STATEMENTS, Call, Lock, Savepoint, SavepointEnd, Sql, Step, Violate, Wait, Write

# The generated handlers run on all six in the short suite, too.
KINDS = [pytest.param(kind, marks=() if kind == "postgresql" else pytest.mark.slow) for kind in DRIVERS]
OPERATIONS = [TRY, CONFIRM, CANCEL]
FORMS = pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@FORMS
@pytest.mark.parametrize("operation", OPERATIONS)
def test_swallowed_violation_fails_where_it_aborts_the_transaction(rig: Rig, operation: str, is_batch):
    [outcome] = rig.check(
        Program(operation=operation, is_batch=is_batch, steps=(Write(), Violate(swallows=True)))
    )

    if rig.dialect == "postgresql":
        assert (outcome.code, outcome.reason) == (FAILED, "TRANSACTION_ABORTED")
    else:
        assert outcome.code == SUCCEEDED


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("culprit", [0, 7], ids=["first", "last"])
def test_swallowed_violation_of_one_item_fails_that_one(rig: Rig, operation: str, culprit: int):
    outcomes = rig.check(
        Program(
            operation=operation,
            is_batch=True,
            items=8,
            culprit=culprit,
            steps=(Write(), Violate(swallows=True)),
        )
    )

    failed = [item for item, outcome in enumerate(outcomes) if outcome.code != SUCCEEDED]
    assert failed == ([culprit] if rig.dialect == "postgresql" else [])


@FORMS
@pytest.mark.parametrize("swallows", [False, True], ids=["", "swallowing"])
@pytest.mark.parametrize("method", CALLS)
def test_call_that_ends_the_transaction(rig: Rig, method: str, swallows, is_batch):
    for ending in (RETURNS_NOTHING, Raise("ValueError")):
        steps = (Write(), Call(method, swallows), Write())
        rig.check(Program(is_batch=is_batch, steps=steps, ending=ending))


@FORMS
@pytest.mark.parametrize("swallows", [False, True], ids=["", "swallowing"])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_statement_that_ends_the_transaction(rig: Rig, statement: str, swallows, is_batch):
    for ending in (RETURNS_NOTHING, Raise("ValueError")):
        steps = (Write(), Sql(statement, swallows), Write())
        rig.check(Program(is_batch=is_batch, steps=steps, ending=ending))


@FORMS
@pytest.mark.parametrize("last", [Call("rollback()", swallows=True), Sql("ROLLBACK", swallows=True)], ids=str)
def test_rollback_at_the_end(rig: Rig, last: Step, is_batch):
    rig.check(Program(operation=CONFIRM, is_batch=is_batch, items=2, culprit=1, steps=(Write(), last)))


@FORMS
@pytest.mark.parametrize("operation", OPERATIONS)
def test_savepoint_left_open_fails(rig: Rig, operation: str, is_batch):
    open_savepoint = Savepoint((Write(),), SavepointEnd.LEFT_OPEN)

    [outcome] = rig.check(Program(operation=operation, is_batch=is_batch, steps=(Write(), open_savepoint)))

    assert outcome.code == FAILED


@FORMS
def test_savepoints_that_are_closed_are_legal(rig: Rig, is_batch):
    kept = Savepoint((Write(),), SavepointEnd.RELEASED)
    undone = Savepoint((Write(), Violate(swallows=False)), SavepointEnd.ROLLED_BACK)

    outcomes = rig.check(Program(is_batch=is_batch, items=2, steps=(Write(), kept, undone, Write())))

    assert [outcome.code for outcome in outcomes] == [SUCCEEDED] * 2


@FORMS
@pytest.mark.parametrize("operation", OPERATIONS)
def test_bare_next_fails_and_keeps_nothing(rig: Rig, operation: str, is_batch):
    [outcome] = rig.check(
        Program(operation=operation, is_batch=is_batch, steps=(Write(),), ending=Raise(BARE_NEXT))
    )

    assert outcome.code == FAILED


@FORMS
@pytest.mark.parametrize(
    "ending",
    [
        Raise("a lone surrogate"),
        Raise("an exception without text"),
        Raise("CancelledError"),
        Raise(CANCELLED_AWAIT),
        Raise("GeneratorExit"),
        Raise("KeyboardInterrupt"),
        Raise("SystemExit"),
        Raise("a BaseException"),
        Raise("Rejected(Enum)"),
        Raise("Rejected(error)"),
        Raise("Rejected(lone surrogate)"),
        Return("dict with a lone surrogate"),
    ],
    ids=str,
)
def test_odd_ending_fails_only_that_item(rig: Rig, ending: Ending, is_batch):
    rig.check(Program(is_batch=is_batch, items=2, steps=(Write(),), ending=ending))


@FORMS
@pytest.mark.parametrize("value", sorted(UNENCODABLE))
def test_result_that_cannot_be_encoded_fails_for_good(rig: Rig, value: str, is_batch):
    [outcome] = rig.check(Program(is_batch=is_batch, steps=(Write(),), ending=Return(value)))

    assert (outcome.code, outcome.permanent) == (FAILED, True)


@FORMS
def test_rejected_keeps_nothing(rig: Rig, is_batch):
    outcomes = rig.check(Program(is_batch=is_batch, items=2, steps=(Write(),), ending=Raise("Rejected")))

    assert [outcome.code for outcome in outcomes] == [REJECTED, SUCCEEDED]
    assert outcomes[0].reason == "SOLD_OUT"


@FORMS
@pytest.mark.parametrize("caller", [Caller.DEADLINE, Caller.HANGS_UP], ids=["deadline", "hangs up"])
def test_caller_that_is_gone_finds_its_call_done(rig: Rig, caller: Caller, is_batch):
    program = Program(is_batch=is_batch, items=2, steps=(Write(), Wait(), Write()), caller=caller)

    assert [outcome.code for outcome in rig.check(program)] == [SUCCEEDED] * 2


def test_handlers_that_deadlock_both_succeed(rig: Rig):
    if rig.dialect == "sqlite":
        pytest.skip("one transaction at a time")
    programs = [Program(steps=(Write(), Lock(first), Wait(), Lock(second))) for first, second in ("ab", "ba")]
    with ExitStack() as stack:
        playing = [stack.enter_context(rig.playing(program)) for program in programs]
        gates = [performance.gate for performance, _ in playing]

        def open_when_both_are_there() -> None:
            if all(gate.arrived for gate in gates):
                for gate in gates:
                    gate.open()

        for gate in gates:
            gate.on_arrival = open_when_both_are_there
        outcomes = rig.call([call for _, [call] in playing], timeout_s=PATIENCE_S)
        assert outcomes is not None
        for program, (performance, calls), outcome in zip(programs, playing, outcomes, strict=True):
            rig.judge(program, performance, calls, [outcome])
        for program in programs:
            rig.check_around(program)
