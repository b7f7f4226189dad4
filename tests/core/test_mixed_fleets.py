"""A coordinator that is not configured with a participant decides nothing because of that."""

import pytest

from coordinator.core.events import (
    Accepted,
    BecameStuck,
    BranchRegistered,
    CancelRequested,
    ConfirmRequested,
    Parked,
    Resumed,
    Save,
    Woken,
)
from coordinator.core.machine import UNKNOWN_GRACE_S
from coordinator.core.model import CancelReason, TransactionState

from .driver import (
    CONFIRM,
    EXPIRES_AT,
    NOT_CONFIGURED,
    SOLD_OUT,
    STARTED_AT,
    SUCCEEDED,
    TRY,
    Driver,
    begun,
    branch,
    confirming,
    transaction,
)


def parked() -> Driver:
    """A transaction that was left to others: only they know the participant of "coupon"."""
    driver = begun("stock", "coupon")
    assert driver.answer(TRY, "coupon", NOT_CONFIGURED) == (Save(),)
    return driver


def test_it_is_parked_for_one_that_knows_the_participant() -> None:
    driver = parked()
    assert driver.saved() == (Parked(),)
    assert driver.row is not None
    assert (driver.row.state, driver.row.next_attempt_at) == (TransactionState.TRYING, STARTED_AT)
    assert driver.row.waiting_on == "coupon-service"
    assert driver.branch("coupon").last_error == "UNKNOWN_PARTICIPANT"


def test_the_next_owner_repeats_every_try_at_once_and_confirms() -> None:
    driver = parked()
    driver.saved()
    driver.crash()
    driver.resume()
    assert driver.called() == ["TRY stock", "TRY coupon"]
    assert driver.to_end() is TransactionState.CONFIRMED


def test_the_result_of_a_try_in_flight_is_stale() -> None:
    driver = parked()
    assert driver.answer(TRY, "stock") == ()
    assert driver.saved() == (Parked(),)


@pytest.mark.parametrize("now", [STARTED_AT, EXPIRES_AT])
def test_nothing_is_decided_while_it_is_being_parked(now: float) -> None:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock", NOT_CONFIGURED)
    driver.now = now
    for event in (Woken(), ConfirmRequested()):
        assert driver.send(event) == ()
    assert driver.saved() == (Parked(),)
    assert driver.tx.state is TransactionState.TRYING


@pytest.mark.parametrize("now", [STARTED_AT, EXPIRES_AT, EXPIRES_AT + UNKNOWN_GRACE_S - 0.001])
def test_it_is_parked_as_soon_as_the_write_in_flight_is_durable(now: float) -> None:
    driver = begun("stock", interactive=True)
    driver.add(branch("coupon"))
    assert driver.answer(TRY, "stock", NOT_CONFIGURED) == ()
    driver.now = now
    for event in (Woken(), ConfirmRequested()):
        assert driver.send(event) == ()
    assert driver.saved() == (BranchRegistered(1), Save())
    assert driver.saved() == (Parked(),)
    assert (driver.tx.state, driver.tx.waiting_on) == (TransactionState.TRYING, "stock-service")
    assert driver.called() == []


def test_a_rejection_decides_while_it_is_to_be_parked() -> None:
    driver = begun("stock", "coupon", interactive=True)
    driver.add(branch("order"))
    driver.answer(TRY, "stock", NOT_CONFIGURED)
    driver.answer(TRY, "coupon", SOLD_OUT)
    assert (driver.tx.state, driver.tx.cancel_reason) == (
        TransactionState.CANCELLING,
        CancelReason.REJECTED,
    )


def test_without_a_coordinator_that_knows_it_it_expires() -> None:
    driver = Driver(transaction(branch("stock")))
    driver.begin()
    assert driver.saved()[0] == Accepted()
    driver.now = EXPIRES_AT + UNKNOWN_GRACE_S
    driver.answer(TRY, "stock", NOT_CONFIGURED)
    assert (driver.tx.state, driver.tx.cancel_reason) == (TransactionState.CANCELLING, CancelReason.EXPIRED)


def test_a_call_that_ends_after_the_expiry_leaves_the_decision_to_others() -> None:
    driver = begun("stock")
    driver.now = EXPIRES_AT
    assert driver.answer(TRY, "stock", NOT_CONFIGURED) == (Save(),)
    assert driver.saved() == (Parked(),)
    assert driver.tx.state is TransactionState.TRYING


@pytest.mark.parametrize("now", [STARTED_AT, EXPIRES_AT, EXPIRES_AT + UNKNOWN_GRACE_S - 0.001])
def test_an_owner_that_lacks_a_participant_calls_and_decides_nothing(now: float) -> None:
    driver = begun("stock", "coupon")
    driver.crash()
    driver.now = now
    assert driver.send(Resumed("coupon-service")) == (Save(),)
    assert driver.saved() == (Parked(),)
    assert driver.row is not None
    assert (driver.row.state, driver.row.next_attempt_at) == (TransactionState.TRYING, now)
    assert driver.row.waiting_on == "coupon-service"
    assert [branch.last_error.partition(":")[0] for branch in driver.row.branches] == [
        "",
        "UNKNOWN_PARTICIPANT",
    ]


def test_an_owner_that_lacks_a_participant_decides_after_the_grace() -> None:
    driver = begun("stock", "coupon")
    driver.crash()
    driver.now = EXPIRES_AT + UNKNOWN_GRACE_S
    driver.send(Resumed("coupon-service"))
    assert (driver.tx.state, driver.tx.cancel_reason) == (TransactionState.CANCELLING, CancelReason.EXPIRED)


def test_an_initiators_cancel_is_decided_by_any_owner() -> None:
    driver = begun("coupon", interactive=True)
    driver.crash()
    driver.send(Resumed("coupon-service"))
    driver.send(CancelRequested())
    driver.saved()
    driver.saved()
    assert driver.row is not None
    assert (driver.row.state, driver.row.cancel_reason) == (
        TransactionState.CANCELLING,
        CancelReason.REQUESTED,
    )


def test_after_the_decision_it_is_no_reason_to_call_an_operator_at_once() -> None:
    driver = confirming("stock", "coupon")
    driver.answer(CONFIRM, "stock", SUCCEEDED)
    assert driver.answer(CONFIRM, "coupon", NOT_CONFIGURED) == (Save(),)
    assert not driver.tx.stuck
    assert driver.tx.waiting_on == "coupon-service"
    assert driver.tx.next_attempt_at == STARTED_AT + 5.0
    driver.saved()
    for _ in range(2):
        driver.crash()
        driver.now += 10.0
        driver.resume()
        driver.answer(CONFIRM, "coupon", NOT_CONFIGURED)
        stuck = driver.tx.stuck
        driver.saved()
    # As after any other failures: the third of three attempts.
    assert stuck
    assert BecameStuck(1) not in driver.effects
