"""What the law of `core/machine.py` promises, point by point. `stories/` tell the ways through it."""

import pytest
from msgspec.structs import replace

from coordinator.core.backoff import delay_s
from coordinator.core.errors import (
    AlreadyDecided,
    BranchConflict,
    BranchPending,
    DecisionConflict,
    NotInteractive,
    TooManyBranches,
    TransactionTooLarge,
)
from coordinator.core.events import (
    Accepted,
    BecameStuck,
    BranchRegistered,
    BranchTried,
    CallCompleted,
    CancelRequested,
    Completed,
    ConfirmRequested,
    Decided,
    Parked,
    Save,
    Saved,
    Woken,
)
from coordinator.core.machine import CANCEL_MESSAGE_CHARACTERS_MAX, ERROR_CHARACTERS_MAX, failing_branch
from coordinator.core.model import (
    NOW,
    CallResult,
    CancelReason,
    OutcomeCode,
    RetryPolicy,
    TransactionState,
    TryState,
)

from .driver import (
    CANCEL,
    CONFIRM,
    EXPIRES_AT,
    HOPELESS,
    LOST,
    SOLD_OUT,
    STARTED_AT,
    SUCCEEDED,
    TRY,
    WITHHELD,
    Driver,
    begun,
    branch,
    cancelling,
    confirming,
    transaction,
)

# --- durable before sent ---------------------------------------------------------


def test_no_try_leaves_before_its_branch_is_durable() -> None:
    driver = Driver(transaction(branch("stock")))
    assert driver.begin() == (Save(),)
    assert driver.tx.wake_at == EXPIRES_AT
    driver.send(Woken())
    assert driver.effects == ()
    driver.saved()
    assert driver.called() == ["TRY stock"]


def test_no_confirm_leaves_before_the_decision_is_durable() -> None:
    driver = begun("stock")
    assert driver.answer(TRY, "stock") == (Save(),)
    assert driver.send(Woken()) == ()
    driver.saved()
    assert driver.called() == ["CONFIRM stock"]


def test_no_cancel_leaves_before_the_decision_is_durable() -> None:
    driver = begun("stock", "coupon")
    assert driver.answer(TRY, "stock", SOLD_OUT) == (Save(),)
    driver.saved()
    assert driver.called() == ["CANCEL stock", "CANCEL coupon"]


def test_a_decision_taken_while_a_write_is_in_flight_is_written_after_it() -> None:
    driver = Driver(transaction(branch("stock")))
    driver.begin()
    assert driver.send(CancelRequested()) == ()
    assert driver.saved() == (Accepted(), Save())
    assert driver.row.state is TransactionState.TRYING
    assert driver.saved()[0] == Decided()
    assert driver.row.state is TransactionState.CANCELLING


def test_a_decision_that_is_not_durable_refuses_no_request() -> None:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock")
    driver.send(ConfirmRequested())
    assert driver.send(CancelRequested()) == ()
    assert driver.add(branch("late")) == ()
    driver.saved()
    with pytest.raises(DecisionConflict):
        driver.send(CancelRequested())
    with pytest.raises(AlreadyDecided):
        driver.add(branch("late"))


def test_a_refusal_of_the_other_decision_has_the_cancel_reason() -> None:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock", SOLD_OUT)
    driver.saved()
    with pytest.raises(DecisionConflict) as refusal:
        driver.send(ConfirmRequested())
    assert refusal.value.metadata == {
        "state": "CANCELLING",
        "cancel_reason": "REJECTED",
        "cancel_branch_id": "stock",
        "cancel_detail": "SOLD_OUT",
    }


def test_each_write_raises_the_version_by_one() -> None:
    driver = begun("stock")
    versions = [driver.tx.version]
    driver.answer(TRY, "stock")
    driver.saved()
    versions.append(driver.tx.version)
    driver.answer(CONFIRM, "stock")
    driver.saved()
    assert [*versions, driver.tx.version] == [1, 2, 3]


def test_saved_without_a_write_in_flight_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        begun("stock").send(Saved())


# --- the decision ------------------------------------------------------------------


def test_confirm_needs_every_try() -> None:
    driver = begun("stock", "coupon", "order")
    driver.answer(TRY, "stock")
    driver.answer(TRY, "order")
    assert driver.tx.state is TransactionState.TRYING
    driver.answer(TRY, "coupon")
    assert driver.tx.state is TransactionState.CONFIRMING


@pytest.mark.parametrize(
    ("now", "state"),
    [(EXPIRES_AT - 0.001, TransactionState.CONFIRMING), (EXPIRES_AT, TransactionState.CANCELLING)],
)
def test_confirm_is_decided_before_the_expiry_or_not_at_all(now: float, state: TransactionState) -> None:
    driver = begun("stock")
    driver.now = now
    driver.answer(TRY, "stock")
    assert driver.tx.state is state


def test_the_first_no_decides_and_later_ones_change_nothing() -> None:
    driver = begun("stock", "coupon")
    driver.answer(TRY, "stock", SOLD_OUT)
    decided = driver.tx
    driver.answer(TRY, "coupon", HOPELESS)
    driver.send(CancelRequested("and I do not want it either"))
    assert driver.tx == decided


def test_a_decision_does_not_expire() -> None:
    for driver in (confirming("stock"), cancelling("stock")):
        before = driver.tx
        driver.now = EXPIRES_AT + 1e6
        assert driver.send(Woken()) == ()
        assert driver.tx == before


def test_the_decision_starts_every_branch_afresh() -> None:
    driver = begun("failed", "not_sent", "open", "yes")
    driver.answer(TRY, "failed", LOST)
    driver.answer(TRY, "not_sent", WITHHELD)
    driver.answer(TRY, "yes")
    driver.send(CancelRequested())
    assert all((b.attempts, b.next_attempt_at, b.calling) == (0, NOW, None) for b in driver.tx.branches)
    driver.saved()
    assert driver.called() == ["CANCEL failed", "CANCEL not_sent", "CANCEL open", "CANCEL yes"]


def test_what_a_try_returned_is_kept_for_phase_two() -> None:
    driver = begun("stock")
    driver.answer(
        TRY,
        "stock",
        CallResult(code=OutcomeCode.SUCCEEDED, result=b"freeze 7", result_content_type="text/plain"),
    )
    assert (driver.row or driver.tx).branches[0].result == b""
    assert driver.in_flight.branches[0].result == b"freeze 7"
    assert driver.in_flight.branches[0].result_content_type == "text/plain"


# --- phase one -----------------------------------------------------------------------


def test_an_unknown_try_is_repeated_when_it_is_due_and_not_before() -> None:
    driver = begun("stock", "coupon")
    driver.answer(TRY, "stock", LOST)
    assert driver.tx.wake_at == STARTED_AT + 1.0
    driver.now += 0.9
    assert driver.send(Woken()) == ()
    driver.now += 0.1
    driver.send(Woken())
    assert driver.called() == ["TRY stock"]
    assert driver.tx.wake_at == EXPIRES_AT


def test_no_try_leaves_at_or_after_the_expiry() -> None:
    """Neither by a retry that another answer finds due, nor by a repeated request."""
    driver = begun("stock", "coupon")
    driver.answer(TRY, "stock", LOST)
    driver.now = EXPIRES_AT
    assert driver.answer(TRY, "coupon", LOST) == (Save(),)
    assert driver.tx.cancel_reason is CancelReason.EXPIRED

    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock", LOST)
    driver.now = EXPIRES_AT
    assert driver.add(branch("stock")) == (BranchRegistered(0), Save())
    assert driver.tx.cancel_reason is CancelReason.EXPIRED


def test_a_participant_may_only_lengthen_the_delay_of_a_retry() -> None:
    for asked_s, waited_s in ((5.0, 5.0), (0.2, 1.0)):
        driver = begun("stock")
        driver.answer(TRY, "stock", CallResult(code=OutcomeCode.FAILED, reason="BUSY", retry_after_s=asked_s))
        assert driver.tx.wake_at == STARTED_AT + waited_s


def test_a_withheld_try_burns_no_attempt() -> None:
    driver = begun("stock")
    driver.answer(TRY, "stock", WITHHELD)
    assert (driver.tx.branches[0].attempts, driver.tx.branches[0].last_error) == (0, "BREAKER_OPEN")
    assert driver.tx.wake_at == STARTED_AT + 3.0


def test_a_later_stage_waits_for_the_retries_of_the_one_before() -> None:
    driver = begun("stock", branch("order", stage=3))
    driver.answer(TRY, "stock", LOST)
    driver.now += 1
    driver.send(Woken())
    assert driver.called() == ["TRY stock"]
    driver.answer(TRY, "stock")
    assert driver.called() == ["TRY order"]


def test_a_stale_answer_changes_nothing() -> None:
    driver = begun("stock", "coupon")
    driver.answer(TRY, "stock")
    before = driver.tx
    for operation in (TRY, CONFIRM, CANCEL):
        assert driver.answer(operation, "stock", HOPELESS) == ()
    for operation in (CONFIRM, CANCEL):
        assert driver.answer(operation, "coupon", HOPELESS) == ()
    assert driver.tx == before


def test_an_answer_to_a_branch_that_is_unknown_here_changes_nothing() -> None:
    """Its sender lost the transaction, and has begun it again since; the log will say what it holds."""
    driver = Driver(transaction(interactive=True))
    driver.begin()
    for operation in (TRY, CONFIRM, CANCEL):
        answer = CallResult(code=OutcomeCode.SUCCEEDED)
        assert driver.send(CallCompleted(0, operation, answer)) == ()


# --- interactive -----------------------------------------------------------------------


def test_a_branch_joins_and_a_repeat_of_it_is_answered_as_it_stands() -> None:
    driver = begun(interactive=True)
    driver.add(branch("stock"))
    assert driver.add(branch("stock")) == ()  # not durable yet: nothing can be said
    driver.saved()
    assert driver.add(branch("stock")) == (BranchRegistered(0),)  # its Try is under way
    assert driver.answer(TRY, "stock") == (BranchTried(0),)
    assert driver.add(branch("stock")) == (BranchRegistered(0), BranchTried(0))
    assert len(driver.tx.branches) == 1


def test_a_repeat_hurries_a_try_that_waits() -> None:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock", LOST)
    driver.add(branch("stock"))
    assert driver.effects[0] == BranchRegistered(0)
    assert driver.called() == ["TRY stock"]
    assert driver.tx.branches[0].attempts == 1


def test_a_try_that_was_refused_is_answered_again() -> None:
    for answer in (SOLD_OUT, HOPELESS):
        driver = begun("stock", "coupon", interactive=True)
        driver.answer(TRY, "stock", answer)
        driver.saved()
        assert driver.add(branch("stock")) == (BranchRegistered(0), BranchTried(0))
        with pytest.raises(AlreadyDecided):  # of this one nothing is known, and nothing will be
            driver.add(branch("coupon"))


@pytest.mark.parametrize(
    "other",
    [
        branch("stock", payload=b"2"),
        branch("stock", content_type="text/plain"),
        branch("stock", tried_by_initiator=True),
        branch("stock", stage=1),
    ],
)
def test_a_branch_id_with_different_content_is_a_conflict_in_every_state(other) -> None:
    for driver in (begun("stock", interactive=True), confirming("stock"), cancelling("stock")):
        before = driver.tx
        with pytest.raises(BranchConflict):
            driver.add(other)
        assert driver.tx is before


def test_a_branch_that_is_not_durable_refuses_another_only_for_now() -> None:
    """Another coordinator may have been faster, with the content that is refused here."""
    driver = begun(interactive=True)
    driver.add(branch("stock"))
    with pytest.raises(BranchPending):
        driver.add(branch("stock", payload=b"2"))
    driver.saved()
    with pytest.raises(BranchConflict):
        driver.add(branch("stock", payload=b"2"))


def test_how_a_participant_is_configured_is_no_conflict() -> None:
    driver = begun("stock", interactive=True)
    assert driver.add(branch("stock", cancel_in_stage_order=True)) == (BranchRegistered(0),)


def test_too_many_branches_are_refused_and_known_ones_are_not() -> None:
    driver = begun("stock", interactive=True)
    with pytest.raises(TooManyBranches):
        driver.add(branch("coupon"), branches_max=1)
    assert driver.add(branch("stock"), branches_max=1) == (BranchRegistered(0),)


def test_payloads_of_an_interactive_transaction_add_up_to_a_bound() -> None:
    driver = begun("stock", interactive=True)
    driver.add(branch("coupon", payload=bytes(600)))
    with pytest.raises(TransactionTooLarge):
        driver.add(branch("order", payload=bytes(401)))
    driver.add(branch("order", payload=bytes(400)))
    assert len(driver.tx.branches) == 3


def test_branches_that_join_while_a_write_is_in_flight_go_with_the_next() -> None:
    driver = Driver(transaction(interactive=True))
    driver.begin()
    driver.add(branch("stock"))
    assert driver.effects == ()
    assert driver.saved() == (Accepted(), Save())
    assert driver.called() == []
    driver.saved()
    assert driver.effects[0] == BranchRegistered(0)
    assert driver.called() == ["TRY stock"]


def test_the_try_of_a_durable_branch_does_not_wait_for_other_writes() -> None:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock", LOST)
    driver.add(branch("coupon"))
    driver.now += 1
    driver.send(Woken())
    assert driver.called() == ["TRY stock"]


def test_no_branch_joins_after_confirm_was_asked_for() -> None:
    driver = begun("stock", interactive=True)
    assert driver.send(ConfirmRequested()) == ()
    with pytest.raises(AlreadyDecided):
        driver.add(branch("coupon"))
    assert driver.add(branch("stock")) == (BranchRegistered(0),)
    driver.answer(TRY, "stock")
    assert driver.tx.state is TransactionState.CONFIRMING


def test_no_branch_joins_after_the_expiry() -> None:
    driver = begun("stock", interactive=True)
    driver.now = EXPIRES_AT
    assert driver.add(branch("coupon")) == (Save(),)
    assert (driver.tx.cancel_reason, len(driver.tx.branches)) == (CancelReason.EXPIRED, 1)


def test_an_interactive_transaction_is_not_confirmed_unasked() -> None:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock")
    assert driver.tx.state is TransactionState.TRYING
    driver.send(ConfirmRequested())
    assert driver.tx.state is TransactionState.CONFIRMING


def test_cancel_is_possible_after_a_confirm_request_before_the_decision() -> None:
    driver = begun("stock", interactive=True)
    driver.send(ConfirmRequested())
    driver.send(CancelRequested())
    driver.answer(TRY, "stock")
    assert driver.tx.state is TransactionState.CANCELLING


def test_the_initiator_vouches_for_its_own_trys_by_confirming() -> None:
    driver = begun(branch("own", tried_by_initiator=True), interactive=True)
    assert driver.called() == []
    assert driver.tx.branches[0].tried is TryState.UNKNOWN
    driver.send(ConfirmRequested())
    assert driver.tx.branches[0].tried is TryState.SUCCEEDED
    driver.saved()
    assert driver.called() == ["CONFIRM own"]


def test_a_confirm_that_races_with_a_registration_waits_for_its_write() -> None:
    driver = begun(interactive=True)
    driver.add(branch("own", tried_by_initiator=True))
    assert driver.send(ConfirmRequested()) == ()
    assert driver.saved() == (BranchRegistered(0), Save())
    driver.saved()
    assert driver.called() == ["CONFIRM own"]


def test_an_interactive_transaction_without_branches_can_end_either_way() -> None:
    for event, state in (
        (ConfirmRequested(), TransactionState.CONFIRMED),
        (CancelRequested(), TransactionState.CANCELLED),
    ):
        driver = begun(interactive=True)
        driver.send(event)
        assert driver.saved() == (Decided(), Completed())
        assert driver.tx.state is state


def test_a_whole_transaction_takes_no_steps_but_a_cancel() -> None:
    driver = begun("stock")
    with pytest.raises(NotInteractive):
        driver.add(branch("coupon"))
    with pytest.raises(NotInteractive):
        driver.send(ConfirmRequested())
    driver.send(CancelRequested())
    assert driver.tx.state is TransactionState.CANCELLING


# --- phase two ---------------------------------------------------------------------------


def test_a_failed_branch_holds_no_other() -> None:
    driver = confirming("stock", "coupon", "order")
    driver.answer(CONFIRM, "coupon", LOST)
    assert driver.effects == ()  # the others are under way
    driver.answer(CONFIRM, "stock")
    driver.answer(CONFIRM, "order")
    assert driver.effects == (Save(),)
    assert [b.done for b in driver.in_flight.branches] == [True, False, True]


def test_it_is_parked_until_the_earliest_of_the_failed_branches() -> None:
    driver = confirming("stock", "coupon")
    driver.answer(CONFIRM, "stock", CallResult(code=OutcomeCode.FAILED, reason="BUSY", retry_after_s=7.0))
    driver.answer(CONFIRM, "coupon", LOST)
    assert (driver.tx.next_attempt_at, driver.tx.waiting_on) == (STARTED_AT + 1.0, "coupon-service")
    assert driver.saved() == (Parked(),)


def test_resumed_it_calls_what_is_due_and_parks_again_for_the_rest() -> None:
    driver = confirming("stock", "coupon")
    driver.answer(CONFIRM, "stock", CallResult(code=OutcomeCode.FAILED, reason="BUSY", retry_after_s=7.0))
    driver.answer(CONFIRM, "coupon", LOST)
    driver.saved()
    driver.crash()
    driver.now += 1
    driver.resume()
    assert driver.called() == ["CONFIRM coupon"]
    driver.answer(CONFIRM, "coupon")
    assert driver.tx.next_attempt_at == STARTED_AT + 7.0


def test_every_verdict_but_success_is_a_failure_in_phase_two() -> None:
    for answer in (LOST, HOPELESS, SOLD_OUT):
        driver = confirming("stock")
        driver.answer(CONFIRM, "stock", answer)
        assert driver.tx.state is TransactionState.CONFIRMING
        assert driver.tx.branches[0].attempts == 1
        assert not driver.tx.branches[0].done


def _fail_again(driver: Driver, answer: CallResult = LOST) -> bool:
    """Whether an alert follows from one more failure."""
    operation = driver.tx.branches[0].calling
    alerted = BecameStuck(0) in driver.answer(operation, "stock", answer)
    driver.saved()
    driver.crash()
    driver.now = max(driver.now, driver.tx.branches[0].next_attempt_at)
    driver.resume()
    return alerted


def test_it_becomes_stuck_once_and_is_retried_at_the_cap_indefinitely() -> None:
    for driver in (confirming("stock"), cancelling("stock")):
        decided = driver.tx.state
        assert [_fail_again(driver) for _ in range(50)] == [False, False, True, *[False] * 47]
        assert (driver.tx.stuck, driver.tx.branches[0].attempts) == (True, 50)
        assert driver.tx.state is decided
        driver.answer(driver.tx.branches[0].calling, "stock", LOST)
        assert driver.tx.next_attempt_at == driver.now + 8.0


def test_withheld_calls_never_make_it_stuck() -> None:
    driver = confirming("stock")
    assert not any(_fail_again(driver, WITHHELD) for _ in range(50))
    assert (driver.tx.stuck, driver.tx.branches[0].attempts) == (False, 0)


def test_a_permanent_failure_makes_it_stuck_immediately() -> None:
    assert _fail_again(confirming("stock"), HOPELESS)


def test_stuck_is_forgotten_when_it_ends() -> None:
    driver = confirming("stock")
    _fail_again(driver, HOPELESS)
    driver.answer(CONFIRM, "stock")
    assert (driver.tx.state, driver.tx.stuck) == (TransactionState.CONFIRMED, False)


def test_cancel_runs_in_reverse_stage_order_only_where_that_is_asked_for() -> None:
    driver = cancelling(
        branch("a", cancel_in_stage_order=True), "b", branch("c", stage=1), branch("d", stage=2)
    )
    assert driver.called() == ["CANCEL b", "CANCEL c", "CANCEL d"]
    driver.answer(CANCEL, "d")
    assert driver.called() == []
    driver.answer(CANCEL, "c")
    assert driver.called() == ["CANCEL a"]


def test_confirm_has_no_stage_order() -> None:
    driver = confirming(branch("a", cancel_in_stage_order=True), branch("b", stage=1))
    assert driver.called() == ["CONFIRM a", "CONFIRM b"]


# --- resumed -----------------------------------------------------------------------------


def test_resumed_while_trying_it_repeats_the_trys_as_later_attempts() -> None:
    driver = begun("stock", branch("order", stage=1))
    driver.crash()
    driver.resume()
    assert driver.called() == ["TRY stock"]
    assert driver.tx.branches[0].attempts == 1
    assert driver.tx.wake_at == EXPIRES_AT
    driver.answer(TRY, "stock")
    driver.answer(TRY, "order")
    assert [b.attempts for b in driver.in_flight.branches] == [0, 0]


def test_resumed_while_trying_it_remembers_how_often_a_try_has_failed() -> None:
    driver = begun(interactive=True)
    driver.add(branch("stock"))
    driver.saved()
    for _ in range(3):
        driver.answer(TRY, "stock", LOST)
        driver.add(branch("stock"))
    driver.add(branch("coupon"))
    driver.saved()
    driver.crash()
    driver.resume()
    assert [b.attempts for b in driver.tx.branches] == [3, 1]


def test_resumed_after_the_expiry_it_is_cancelled_without_asking() -> None:
    driver = begun("stock")
    driver.crash()
    driver.now = EXPIRES_AT
    assert driver.resume() == (Save(),)
    assert driver.tx.cancel_reason is CancelReason.EXPIRED


def test_resumed_in_phase_two_it_repeats_all_that_is_not_known_to_be_done() -> None:
    for driver, call in ((confirming("stock", "coupon"), CONFIRM), (cancelling("stock", "coupon"), CANCEL)):
        driver.answer(call, "stock")
        driver.crash()
        driver.resume()
        assert driver.called() == [f"{call.name} stock", f"{call.name} coupon"]


def test_resumed_decided_with_every_branch_done_it_ends() -> None:
    """An older coordinator wrote the decision of a transaction without branches alone."""
    driver = begun(interactive=True)
    driver.tx = replace(driver.tx, state=TransactionState.CONFIRMING, saved_state=TransactionState.CONFIRMING)
    assert driver.resume() == (Save(),)
    assert driver.tx.state is TransactionState.CONFIRMED


def test_the_earliest_branch_is_called_though_the_clock_is_behind() -> None:
    """The database found it due, and clocks differ. Parking it again would go round in circles."""
    driver = cancelling(branch("first", cancel_in_stage_order=True), branch("stock", stage=1))
    driver.answer(CANCEL, "stock", LOST)
    driver.saved()
    driver.crash()
    driver.resume()  # not a second has passed
    assert driver.called() == ["CANCEL stock"]


def test_a_no_is_kept_in_full_and_cancels_with_its_stable_reason() -> None:
    driver = begun("stock")
    driver.answer(TRY, "stock", SOLD_OUT)
    assert driver.tx.branches[0].last_error == "SOLD_OUT: none left"
    assert (driver.tx.cancel_detail, driver.tx.cancel_message) == ("SOLD_OUT", "none left")


# --- why the time was up --------------------------------------------------------------


KEY_ERROR = CallResult(code=OutcomeCode.FAILED, reason="HANDLER_ERROR", message="KeyError: 'sku'")


def expired(driver: Driver) -> tuple[CancelReason, str, str, str]:
    """Lets the time be up. Returns why `driver`'s transaction was cancelled."""
    driver.now = EXPIRES_AT
    driver.send(Woken())
    tx = driver.tx
    return tx.cancel_reason, tx.cancel_branch_id, tx.cancel_detail, tx.cancel_message


def test_an_expiry_names_the_branch_that_kept_failing_and_its_last_error() -> None:
    driver = begun("stock", "coupon")
    driver.answer(TRY, "coupon", LOST)
    driver.now += 1.0
    driver.send(Woken())
    driver.answer(TRY, "coupon", KEY_ERROR)
    assert expired(driver) == (CancelReason.EXPIRED, "coupon", "HANDLER_ERROR", "KeyError: 'sku'")


def test_an_expiry_names_the_branch_that_failed_most() -> None:
    driver = begun("stock", "coupon")
    driver.answer(TRY, "stock", LOST)
    driver.answer(TRY, "coupon", KEY_ERROR)
    driver.now += 1.0
    driver.send(Woken())
    driver.answer(TRY, "coupon", KEY_ERROR)
    assert expired(driver)[1] == "coupon"


def test_an_expiry_does_not_name_a_branch_whose_try_succeeded_in_the_end() -> None:
    driver = begun("stock", "coupon")
    driver.answer(TRY, "stock", KEY_ERROR)
    driver.now += 1.0
    driver.send(Woken())
    driver.answer(TRY, "stock", SUCCEEDED)
    assert expired(driver) == (CancelReason.EXPIRED, "", "", "")


def test_an_expiry_names_a_try_that_was_not_sent_only_if_none_failed() -> None:
    driver = begun("stock")
    driver.answer(TRY, "stock", WITHHELD)
    assert expired(driver)[1:] == ("stock", "BREAKER_OPEN", "")

    driver = begun("stock")
    driver.answer(TRY, "stock", LOST)
    driver.now += 1.0
    driver.send(Woken())
    driver.answer(TRY, "stock", WITHHELD)
    assert expired(driver)[1:] == ("stock", "UNAVAILABLE", "")


def test_a_branch_that_joins_after_the_expiry_gets_the_failing_branch() -> None:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock", KEY_ERROR)
    driver.now = EXPIRES_AT
    driver.add(branch("coupon"))
    assert (driver.tx.cancel_reason, driver.tx.cancel_branch_id) == (CancelReason.EXPIRED, "stock")


def test_no_branch_is_failing_that_has_not_failed_in_the_present_phase() -> None:
    driver = begun("stock")
    assert failing_branch(driver.tx) is None
    driver.answer(TRY, "stock", KEY_ERROR)
    assert failing_branch(driver.tx) == driver.branch("stock")
    driver.now += 1.0
    driver.send(Woken())
    driver.answer(TRY, "stock", SUCCEEDED)
    driver.saved()
    assert (driver.tx.state, failing_branch(driver.tx)) == (TransactionState.CONFIRMING, None)
    driver.answer(CONFIRM, "stock", LOST)
    assert failing_branch(driver.tx) == driver.branch("stock")


# --- words, delays --------------------------------------------------------------------


def test_error_texts_are_kept_up_to_a_limit() -> None:
    long = CallResult(code=OutcomeCode.REJECTED, reason="N" * 100_000, message="x" * 100_000)
    driver = begun("stock")
    driver.answer(TRY, "stock", long)
    assert len(driver.tx.cancel_detail) == len(driver.tx.branches[0].last_error) == ERROR_CHARACTERS_MAX
    assert driver.tx.cancel_message == "x" * CANCEL_MESSAGE_CHARACTERS_MAX

    driver = confirming("stock")
    driver.answer(CONFIRM, "stock", long)
    assert len(driver.tx.branches[0].last_error) == ERROR_CHARACTERS_MAX

    driver = begun("stock")
    driver.send(CancelRequested("x" * 100_000))
    assert len(driver.tx.cancel_detail) == ERROR_CHARACTERS_MAX


def test_the_cancel_detail_is_cut_to_what_the_log_can_hold() -> None:
    """So that the first answer, from memory, and any later one, from the log, are the same."""
    driver = begun("stock")
    odd = CallResult(code=OutcomeCode.REJECTED, reason="N\0", message="a\0b \ud800 \N{SNOWMAN}")
    driver.answer(TRY, "stock", odd)
    assert (driver.tx.cancel_detail, driver.tx.cancel_message) == (
        "N\N{REPLACEMENT CHARACTER}",
        "a\N{REPLACEMENT CHARACTER}b ? \N{SNOWMAN}",
    )


def test_delays_double_up_to_their_cap_and_are_spread_by_jitter() -> None:
    policy = RetryPolicy(delay_first_s=0.5, delay_max_s=3.0)
    assert [delay_s(n, policy, 1.0) for n in (0, 1, 2, 3, 4, 5)] == [0.5, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert [delay_s(3, policy, jitter) for jitter in (0.0, 0.25, 0.5)] == [0.0, 0.5, 1.0]


def test_delays_stay_finite_after_any_number_of_failures() -> None:
    assert delay_s(10**9, RetryPolicy(delay_first_s=0.1, delay_max_s=30.0), 1.0) == 30.0
