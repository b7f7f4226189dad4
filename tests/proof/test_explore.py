"""The explorer: small scopes are clean, and broken code is found, with the shortest way there."""

import json
import subprocess
import sys
from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.core import machine
from coordinator.core.events import Begun, CallCompleted, CancelRequested, Decided, Resumed, Woken
from coordinator.core.model import NOW, Branch, Operation, Transaction, TransactionState, TryState
from proof.explore import program
from proof.explore.scope import Scope, branch
from proof.explore.scopes import SMALL
from proof.explore.search import Counterexample, Visit, visit
from proof.explore.system import System
from tcc.barrier import decisions

A, B = branch("a"), branch("b")
ONE = Scope(name="one", branches=(A,))
# Small enough to be visited to its end, which is when it is known that some run has none.
BRIEF = replace(ONE, faults_max=1)
TWO = Scope(name="two", branches=(A, B), live_owners_lose=False, lost_answers=False)
PAIR = Scope(name="pair", branches=(A,), transactions=2, stock=1, faults_max=1)
INTERACTIVE = Scope(name="interactive", branches=(A,), interactive=True, faults_max=0)

TRYING, CONFIRMING, CANCELLING = (
    TransactionState.TRYING,
    TransactionState.CONFIRMING,
    TransactionState.CANCELLING,
)


def explored(scope: Scope) -> Visit:
    return visit(System(scope))


def found(scope: Scope) -> tuple[str, str]:
    """Return the violated property, and the steps to it."""
    (finding,) = explored(scope).counterexamples
    return finding.broken, "\n".join(finding.path)


# --- code that is right --------------------------------------------------------------


@pytest.mark.parametrize(
    "scope",
    [
        replace(ONE, may_reject=(0,), live_owners_lose=False, purges=True, clocks_apart=True),
        replace(ONE, attempts_before_stuck=2, faults_max=1, releases=True, slow_claims=True),
        replace(ONE, repeats=True, contents=2, faults_max=1, stale_answers=True),
        replace(TWO, faults_max=1, due_apart=True),
        replace(PAIR, faults_max=0),
        replace(INTERACTIVE, branches=(A, branch("i", tried_by_initiator=True))),
    ],
    ids=["rejections", "stuck", "repeats", "two branches", "two transactions", "interactive"],
)
def test_nothing_is_broken_and_every_fair_run_ends(scope: Scope) -> None:
    seen = explored(scope)
    assert seen.counterexamples == []
    assert seen.complete
    assert seen.fair_steps_max > 5
    assert seen.states > 500


def test_states_that_differ_by_names_only_are_one() -> None:
    """Whichever coordinator, and whichever of two equal transactions, begins: it is one state."""
    system = System(PAIR)
    begun = {step.state for step in system.steps(system.start) if "begin" in step.what[0]}
    assert len(begun) == 1


def test_what_was_not_visited_is_reported() -> None:
    seen = visit(System(ONE), states_max=10)
    assert (seen.states, seen.complete) == (10, False)


# --- code that is wrong ----------------------------------------------------------------


def confirm_early(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = machine._go_on_trying

    def hasty(tx: Transaction, now: float) -> machine.Step:
        if any(branch.tried is TryState.SUCCEEDED for branch in tx.branches):
            return machine._confirm(tx, now)
        return go_on(tx, now)

    monkeypatch.setattr(machine, "_go_on_trying", hasty)


def test_confirm_without_every_try_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    confirm_early(monkeypatch)
    broken, path = found(TWO)
    assert broken == "CONFIRM was decided though not every branch holds its reservation"
    assert path.splitlines() == [
        "coordinator A is asked to begin, with content 1",
        "coordinator A inserts a row that is TRYING now",
        "coordinator A learns that its write is durable",
        "coordinator A calls a's TRY: SUCCEEDED",
        "coordinator A receives the result of a's TRY: SUCCEEDED",
        "coordinator A saves a row that is CONFIRMING now",
    ]


def test_a_path_keeps_the_names_of_transactions_and_coordinators(monkeypatch: pytest.MonkeyPatch) -> None:
    confirm_early(monkeypatch)
    _, path = found(replace(PAIR, branches=(A, B)))
    assert {line.split(":")[0] for line in path.splitlines()} == {"transaction 1"}


def test_a_decision_that_is_sent_before_it_is_saved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = machine._decide

    def hasty(tx: Transaction, trigger: machine.Trigger, now: float = NOW) -> machine.Step:
        is_durable = tx.saved_state is not None
        tx, effects = decide(tx, trigger, now)
        operation = machine.PHASE_TWO[tx.state]
        calls = (machine.branch_call(tx, index, operation) for index in range(len(tx.branches)))
        return tx, (*effects, *calls) if is_durable else effects

    monkeypatch.setattr(machine, "_decide", hasty)
    broken, _ = found(ONE)
    assert broken.endswith("left before its decision was durable")


def test_a_try_that_leaves_before_it_is_saved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = machine._begin

    def hasty(*arguments: Any) -> machine.Step:
        tx, effects = begin(*arguments)
        return tx, (*effects, machine.branch_call(tx, 0, Operation.TRY))

    monkeypatch.setitem(machine._REACTIONS[TRYING], Begun, hasty)
    assert found(ONE)[0] == "something left before the transaction was durable"


def test_a_late_try_that_is_accepted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    key = (decisions.Operation.TRY, decisions.BarrierState.CANCELLED)
    monkeypatch.setitem(decisions.TCC_DECISIONS, key, decisions.BarrierDecision.RUN)
    broken, path = found(TWO)
    assert broken.startswith("TRY took effect on a branch that is")
    assert "a's CANCEL: SUCCEEDED" in path


def test_a_second_confirm_that_runs_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    key = (decisions.Operation.CONFIRM, decisions.BarrierState.CONFIRMED)
    monkeypatch.setitem(decisions.TCC_DECISIONS, key, decisions.BarrierDecision.RUN)
    assert found(ONE)[0] == "CONFIRM took effect on a branch that is TAKEN"


def test_a_branch_that_never_answered_and_gets_no_cancel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = machine._decide

    def forgetful(tx: Transaction, trigger: machine.Trigger, now: float = NOW) -> machine.Step:
        known = tuple(replace(b, done=b.tried is TryState.UNKNOWN) for b in tx.branches)
        return decide(replace(tx, branches=known), trigger, now)

    monkeypatch.setattr(machine, "_decide", forgetful)
    assert found(TWO)[0] == "it was called CANCELLED before every branch was"


def test_a_failed_confirm_that_counts_as_done_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = machine._failed

    def lenient(branch: Branch, event: CallCompleted, now: float) -> Branch:
        return replace(failed(branch, event, now), done=event.operation is Operation.CONFIRM)

    monkeypatch.setattr(machine, "_failed", lenient)
    assert found(TWO)[0] == "it was called CONFIRMED before every branch was"


def test_a_decision_that_changes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def obedient(tx: Transaction, _event: object, _now: float) -> machine.Step:
        return machine._save(replace(tx, state=tx.state if tx.saving else CANCELLING))

    monkeypatch.setitem(machine._REACTIONS[CONFIRMING], CancelRequested, obedient)
    assert found(INTERACTIVE)[0] == "a decision was changed"


def test_an_answer_before_the_decision_is_durable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = machine._decide

    def talkative(tx: Transaction, trigger: machine.Trigger, now: float = NOW) -> machine.Step:
        is_durable = tx.saved_state is not None
        tx, effects = decide(tx, trigger, now)
        return tx, (*effects, Decided()) if is_durable else effects

    monkeypatch.setattr(machine, "_decide", talkative)
    assert found(ONE)[0] == "a decision was reported that is not durable"


def unheeding(tx: Transaction, _event: object, _now: float) -> machine.Step:
    return tx, ()


@pytest.mark.parametrize(
    ("state", "event", "why"),
    [
        (TRYING, Woken, "a coordinator still waits for something that never comes"),
        (CONFIRMING, Resumed, "a coordinator still waits for something that never comes"),
    ],
    ids=["the expiry is slept through", "what was adopted is not driven on"],
)
def test_a_run_that_stands_still_is_found(
    monkeypatch: pytest.MonkeyPatch, state: TransactionState, event: type, why: str
) -> None:
    monkeypatch.setitem(machine._REACTIONS[state], event, unheeding)
    assert found(BRIEF)[0] == why


def test_a_run_that_turns_in_circles_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is parked where it should end is claimed, and parked, indefinitely."""

    def parked_again(tx: Transaction) -> machine.Step:
        return machine._save(replace(tx, next_attempt_at=100.0))

    monkeypatch.setattr(machine, "_end", parked_again)
    assert found(BRIEF)[0] == "a run without faults goes on indefinitely"


def test_a_write_that_is_never_sent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is parked in memory alone waits for a write that is never sent."""

    def unsent(tx: Transaction) -> machine.Step:
        return replace(tx, saving=True, saving_state=tx.state, saving_branches=1, next_attempt_at=100.0), ()

    monkeypatch.setattr(machine, "_park", unsent)
    assert found(BRIEF)[0] == "a coordinator still waits for something that never comes"


def test_a_core_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_end", lambda tx: machine.TRANSITIONS[tx.state][None])
    assert found(ONE)[0].startswith("the core failed at CallCompleted")


# --- the program ------------------------------------------------------------------------


def test_the_program_ends_with_its_figures() -> None:
    """As `make explore` runs it, over one scope."""
    name = "one branch, no faults"
    ended = subprocess.run(
        [sys.executable, "-m", "proof.explore", "--scope", name, "--jobs", "1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=400,
    )
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert figures["violations"] == 0
    assert figures["states"] > 20
    assert f"{name}: {figures['states']} states" in ended.stderr


def test_a_broken_promise_ends_the_program_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Visit(7, 9, 0, [Counterexample("it is broken", ["a step broke it"])], complete=False)
    monkeypatch.setattr(program, "visits", lambda scopes, jobs: [broken for _ in scopes])
    assert program.main(["--scope", SMALL[0].name]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"scope {SMALL[0].name}: it is broken"
    assert said[1].split(maxsplit=1) == ["1", "a step broke it"]
    assert json.loads(said[2])["violations"] == 1
