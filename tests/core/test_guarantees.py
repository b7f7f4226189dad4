"""The guarantees of the design, checked after every step of thousands of arbitrary histories.

Hypothesis makes the history: answers of every kind, in any order and late ones too,
requests of the initiator at any moment, time, crashes with the write in flight landing
or not. A model notes only what the world outside has seen: what the log holds, which
calls left, what participants answered. It knows nothing of how the machine works.
"""

import sys

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coordinator.core.errors import Refused
from coordinator.core.events import (
    Begun,
    BranchAdded,
    BranchRegistered,
    CallCompleted,
    CancelRequested,
    Completed,
    ConfirmRequested,
    Decided,
    Effect,
    Event,
    Parked,
    Resumed,
    Save,
    Saved,
    Woken,
)
from coordinator.core.machine import step
from coordinator.core.model import NEVER, BranchCall, Operation, Transaction, TransactionState

from .driver import (
    CANCEL,
    CONFIRM,
    EXPIRES_AFTER_S,
    HOPELESS,
    LOST,
    POLICY,
    SOLD_OUT,
    STARTED_AT,
    SUCCEEDED,
    TRY,
    WITHHELD,
    as_loaded,
    branch,
    transaction,
)

CONFIRM_SIDE, CANCEL_SIDE = (
    {TransactionState.CONFIRMING, TransactionState.CONFIRMED},
    {TransactionState.CANCELLING, TransactionState.CANCELLED},
)
BRANCHES_MAX = 4
ANSWERS = st.sampled_from([SUCCEEDED, SUCCEEDED, SUCCEEDED, LOST, LOST, WITHHELD, SOLD_OUT, HOPELESS])
SPECS = st.builds(
    branch,
    st.sampled_from("abcde"),
    stage=st.integers(0, 2),
    cancel_in_stage_order=st.booleans(),
)
STEPS = st.builds(branch, st.sampled_from("abcde"), tried_by_initiator=st.booleans())


def decision_of(state: TransactionState) -> Operation | None:
    return CONFIRM if state in CONFIRM_SIDE else CANCEL if state in CANCEL_SIDE else None


class History(RuleBasedStateMachine):
    """One transaction, no matter which coordinator drives it."""

    # What its present owner remembers; None while no coordinator drives it.
    memory: Transaction | None = None

    def __init__(self) -> None:
        super().__init__()
        self.now = STARTED_AT
        self.row: Transaction | None = None
        self.in_flight: Transaction | None = None
        # The calls that this owner has sent and that have not been answered.
        self.calls_in_flight: set[tuple[int, Operation]] = set()
        # What participants have ever said yes to, and what the initiator vouched for.
        self.said_yes: set[tuple[str, Operation]] = set()
        self.confirm_was_asked_for = False
        self.ended = False

    @initialize(specs=st.none() | st.lists(SPECS, min_size=1, max_size=3, unique_by=lambda s: s.branch_id))
    def begin(self, specs: list | None) -> None:
        """None begins an interactive transaction."""
        self.memory = transaction(*specs or (), interactive=specs is None)
        self.send(Begun())

    # --- what can happen -------------------------------------------------------

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def write_lands(self) -> None:
        written = self.in_flight
        self.in_flight = None
        self.store(written)
        self.send(Saved())

    @precondition(lambda self: self.calls_in_flight)
    @rule(data=st.data(), answer=ANSWERS, jitter=st.floats(0, 1, exclude_max=True))
    def participant_answers(self, data: st.DataObject, answer, jitter: float) -> None:
        index, operation = data.draw(st.sampled_from(sorted(self.calls_in_flight)), "call")
        self.calls_in_flight.remove((index, operation))
        if answer is SUCCEEDED:
            self.said_yes.add((self.memory.branches[index].spec.branch_id, operation))
        self.send(CallCompleted(index, operation, answer, POLICY, jitter))

    @precondition(lambda self: self.memory is not None and self.memory.branches)
    @rule(data=st.data(), operation=st.sampled_from(Operation), answer=ANSWERS)
    def stale_answer_arrives(self, data: st.DataObject, operation: Operation, answer) -> None:
        index = data.draw(st.integers(0, len(self.memory.branches) - 1), "branch")
        if (index, operation) not in self.calls_in_flight:
            before = self.memory
            self.send(CallCompleted(index, operation, answer, POLICY, 0.5))
            assert self.memory == before, "a stale answer changed something"

    @precondition(lambda self: self.memory is not None and self.memory.interactive)
    @rule(spec=STEPS)
    def initiator_adds(self, spec) -> None:
        self.send(BranchAdded(spec, BRANCHES_MAX, 1_000))

    @precondition(lambda self: self.memory is not None)
    @rule()
    def initiator_confirms(self) -> None:
        if self.memory.interactive:
            self.confirm_was_asked_for = True
            self.said_yes |= {
                (b.spec.branch_id, TRY) for b in self.memory.branches if b.spec.tried_by_initiator
            }
        self.send(ConfirmRequested())

    @precondition(lambda self: self.memory is not None)
    @rule()
    def initiator_cancels(self) -> None:
        self.send(CancelRequested("changed my mind"))

    @rule(seconds=st.sampled_from([0.1, 1.0, 1.0, 3.0, 10.0, EXPIRES_AFTER_S]), told=st.booleans())
    def time_passes(self, seconds: float, told: bool) -> None:  # noqa: FBT001 - Hypothesis passes it by name
        """The sweep that tells of it may be late."""
        self.now += seconds
        if told and self.memory is not None and self.now >= self.memory.wake_at:
            self.send(Woken())

    @precondition(lambda self: self.memory is not None)
    @rule(write_lands=st.booleans())
    def owner_dies(self, write_lands: bool) -> None:  # noqa: FBT001 - Hypothesis passes it by name
        if write_lands and self.in_flight is not None:
            self.store(self.in_flight)
        if self.row is not None:  # else no caller has ever been notified of it
            self.forget()

    @precondition(lambda self: self.memory is None and not self.row.state.ended)
    @rule()
    def somebody_resumes(self) -> None:
        self.memory = self.row
        self.send(Resumed())

    # --- how it is noted ---------------------------------------------------------

    def send(self, event: Event) -> None:
        before = self.memory
        try:
            self.memory, effects = step(before, event, self.now)
        except Refused:
            assert isinstance(event, BranchAdded | ConfirmRequested | CancelRequested)
            return
        self.check_change(before, self.memory)
        for effect in effects:
            self.note(effect)

    def note(self, effect: Effect) -> None:
        tx = self.memory
        match effect:
            case Save():
                assert self.in_flight is None, "two writes in flight"
                self.in_flight = tx
            case BranchCall(index=index, operation=operation):
                self.check_call(index, operation)
                self.calls_in_flight.add((index, operation))
            case BranchRegistered(index):
                assert self.row.branches[index].spec == tx.branches[index].spec, "told before it was durable"
            case Decided():
                assert decision_of(self.row.state) is decision_of(tx.state) is not None
            case Completed():
                assert self.row.state.ended
                self.ended = True
                self.forget()
            case Parked():
                calls = {operation for _, operation in self.calls_in_flight}
                assert calls <= {TRY}, "parked while a call is under way"
                self.forget()

    def forget(self) -> None:
        self.memory, self.in_flight = None, None
        self.calls_in_flight = set()

    def store(self, written: Transaction) -> None:
        """Writes the row, and checks what no row may ever do."""
        before, self.row = self.row, as_loaded(written)
        if before is None:
            return
        assert written.version == before.version
        assert decision_of(before.state) in (None, decision_of(written.state)), "a decision changed"
        assert not before.state.ended, "an end was written again"
        known = [b.spec for b in before.branches]
        joined = [b.spec for b in written.branches]
        assert joined[: len(known)] == known, "a branch was lost"
        assert joined == known or before.state is TransactionState.TRYING, (
            "a branch joined after the decision"
        )
        assert all(b.done for b, was in zip(written.branches, before.branches, strict=False) if was.done)

    # --- the guarantees ------------------------------------------------------------

    def check_call(self, index: int, operation: Operation) -> None:
        """Guarantees 2 and 3: durable before sent."""
        tx, row = self.memory, self.row
        assert row is not None, "a call before the transaction was durable"
        assert (index, operation) not in self.calls_in_flight, "the same call twice at once"
        assert index < len(row.branches), "a call before its branch was durable"
        branch = tx.branches[index]
        if operation is TRY:
            assert (row.state, tx.state) == (TransactionState.TRYING, TransactionState.TRYING), (
                "a Try after the decision"
            )
            assert self.now < tx.expires_at, "a Try after the expiry"
            assert not branch.spec.tried_by_initiator
            lower = [b for b in tx.branches if b.spec.stage < branch.spec.stage]
            assert all((b.spec.branch_id, TRY) in self.said_yes for b in lower), "a Try before its stage"
            return
        assert operation is decision_of(row.state), "a phase-two call before its decision was durable"
        if operation is CANCEL and branch.spec.cancel_in_stage_order:
            later = [b for b in tx.branches if b.spec.stage > branch.spec.stage]
            assert all((b.spec.branch_id, CANCEL) in self.said_yes for b in later), "a Cancel out of order"

    def check_change(self, before: Transaction, after: Transaction) -> None:
        """Guarantees 1 and 4: one decision, and CONFIRM only when everybody has said yes in time."""
        assert decision_of(before.state) in (None, decision_of(after.state)), "a decision changed"
        if before.state is TransactionState.TRYING and after.state in CONFIRM_SIDE:
            assert self.now < after.expires_at, "confirmed after the expiry"
            assert self.confirm_was_asked_for or not after.interactive
            assert all((b.spec.branch_id, TRY) in self.said_yes for b in after.branches)
        if before.state.decided:
            assert [b.spec for b in before.branches] == [b.spec for b in after.branches]

    @invariant()
    def nothing_is_dropped(self) -> None:
        """Guarantee 5: done means that the participant said so; an end, that everybody did."""
        tx = self.memory or self.row
        if tx is None:
            return
        decision = decision_of(tx.state)
        for b in tx.branches:
            assert not b.done or (b.spec.branch_id, decision) in self.said_yes
            assert not tx.state.ended or b.done

    @invariant()
    def something_will_happen(self) -> None:
        """Check that no wait is endless: a write, a call or a due time is always pending."""
        tx = self.memory
        if tx is not None and not tx.state.ended:
            assert tx.saving is (self.in_flight is not None)
            called = any(branch.calling for branch in tx.branches)
            assert self.in_flight is not None or called or tx.wake_at != NEVER

    @invariant()
    def memory_agrees_with_the_world(self) -> None:
        if self.memory is not None:
            calling = {(i, b.calling) for i, b in enumerate(self.memory.branches) if b.calling}
            assert calling <= self.calls_in_flight, "it waits for a call that never left"

    def teardown(self) -> None:
        """Whatever has happened: from here on everything works, and so it ends."""
        if sys.exc_info()[0] is not None:
            return  # the history is broken already, and its own error says how
        for _ in range(200):
            if self.ended or (self.memory is None and (self.row is None or self.row.state.ended)):
                break
            self.go_on()
            self.nothing_is_dropped()
            self.something_will_happen()
        else:
            pytest.fail(f"it does not end: {self.memory or self.row}")
        if self.row is not None:
            assert self.row.state.ended
            assert all(
                (b.spec.branch_id, decision_of(self.row.state)) in self.said_yes for b in self.row.branches
            )

    def go_on(self) -> None:
        if self.memory is None:
            self.somebody_resumes()
        elif self.in_flight is not None:
            self.write_lands()
        elif self.calls_in_flight:
            index, operation = self.calls_in_flight.pop()
            self.said_yes.add((self.memory.branches[index].spec.branch_id, operation))
            self.send(CallCompleted(index, operation, SUCCEEDED, POLICY, 0.5))
        else:
            assert self.memory.wake_at != NEVER
            self.now = max(self.now, self.memory.wake_at)
            self.send(Woken())


def test_every_history_keeps_the_guarantees_and_ends() -> None:
    """The same histories in every run, so that a red test stays red."""
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=250,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_new_histories_keep_the_guarantees_and_end() -> None:
    """New histories in every run; Hypothesis prints how to repeat the one that fails."""
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=1_500,
            stateful_step_count=60,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate, Phase.shrink],
        ),
    )
