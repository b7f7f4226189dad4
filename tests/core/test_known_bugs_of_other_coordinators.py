"""What hurt the users of other coordinators, as far as the core alone prevents it. See tests/engine too."""

import pytest

from coordinator.core.errors import AlreadyDecided
from coordinator.core.events import CancelRequested, Completed, ConfirmRequested, Save, Woken
from coordinator.core.machine import ERROR_CHARACTERS_MAX
from coordinator.core.model import Branch, CallResult, OutcomeCode, TransactionState

from .driver import (
    CANCEL,
    CONFIRM,
    EXPIRES_AT,
    HOPELESS,
    LOST,
    STARTED_AT,
    TRY,
    Driver,
    begun,
    branch,
    confirming,
)


def _confirming_interactively() -> Driver:
    driver = begun("stock", interactive=True)
    driver.answer(TRY, "stock")
    driver.send(ConfirmRequested())
    driver.saved()
    return driver


def _retried(driver: Driver) -> None:
    """The failure is written, the pause passes, the row is claimed."""
    driver.saved()
    driver.now = driver.tx.next_attempt_at
    driver.crash()
    driver.resume()


def test_dtm_a_second_confirm_does_not_mark_the_transaction_as_succeeded() -> None:
    driver = _confirming_interactively()
    for _ in range(3):
        assert driver.send(ConfirmRequested()) == ()
    assert (driver.tx.state, driver.tx.branches[0].done) == (TransactionState.CONFIRMING, False)


@pytest.mark.parametrize("tried_by_initiator", [True, False])
def test_dtm_a_branch_registered_while_the_timeout_fires_is_cancelled(*, tried_by_initiator: bool) -> None:
    driver = begun(interactive=True)
    driver.add(branch("stock", tried_by_initiator=tried_by_initiator))
    driver.now = EXPIRES_AT
    driver.send(Woken())
    driver.saved()
    driver.saved()
    assert driver.called() == ["CANCEL stock"]
    assert driver.to_end() is TransactionState.CANCELLED


def test_dtm_registering_a_branch_again_makes_no_second_one() -> None:
    driver = begun(interactive=True)
    own = branch("stock", tried_by_initiator=True)
    for _ in range(3):
        driver.add(own)
    driver.saved()
    driver.add(own)
    assert len(driver.tx.branches) == 1


def test_dtm_a_long_error_text_does_not_stop_the_cancel() -> None:
    driver = begun("stock")
    driver.answer(
        TRY, "stock", CallResult(code=OutcomeCode.REJECTED, reason="NO" * 10_000, message="x" * 10**6)
    )
    written = driver.in_flight
    assert len(written.cancel_detail) == len(written.branches[0].last_error) == ERROR_CHARACTERS_MAX
    assert driver.to_end() is TransactionState.CANCELLED


def test_dtm_phase_two_calls_all_branches_despite_an_error() -> None:
    driver = confirming("stock", "coupon", "order")
    assert driver.called() == ["CONFIRM stock", "CONFIRM coupon", "CONFIRM order"]
    driver.answer(CONFIRM, "stock", HOPELESS)
    driver.answer(CONFIRM, "coupon")
    driver.answer(CONFIRM, "order")
    assert [b.done for b in driver.tx.branches] == [False, True, True]


def test_dtm_the_backoff_has_a_cap() -> None:
    driver = confirming("stock")
    for _ in range(100):
        driver.answer(CONFIRM, "stock", LOST)
        assert driver.tx.next_attempt_at - driver.now <= 8.0
        _retried(driver)


@pytest.mark.parametrize("skew_s", [-8 * 3_600.0, 8 * 3_600.0])
def test_dtm_a_skewed_clock_does_not_shift_a_retry_that_the_log_found_due(skew_s: float) -> None:
    driver = confirming("stock")
    driver.answer(CONFIRM, "stock", LOST)
    driver.saved()
    driver.crash()
    driver.now += skew_s
    driver.resume()
    assert driver.called() == ["CONFIRM stock"]


def test_dtm_nothing_ends_without_the_word_of_every_participant() -> None:
    driver = begun("stock", "coupon")
    driver.send(CancelRequested("force it"))
    driver.saved()
    driver.answer(CANCEL, "stock")
    driver.answer(CANCEL, "coupon", HOPELESS)
    for _ in range(20):
        _retried(driver)
        assert driver.called() == ["CANCEL coupon"]
        driver.answer(CANCEL, "coupon", HOPELESS)
    assert driver.tx.state is TransactionState.CANCELLING


def test_seata_a_request_repeated_before_its_write_makes_one_branch() -> None:
    driver = begun(interactive=True)
    for _ in range(3):
        driver.add(branch("stock"))
    driver.saved()
    assert driver.called() == ["TRY stock"]
    assert len(driver.row.branches) == 1


def test_seata_no_branch_joins_after_the_decision() -> None:
    driver = _confirming_interactively()
    with pytest.raises(AlreadyDecided):
        driver.add(branch("coupon"))
    assert len(driver.tx.branches) == 1


def test_seata_no_number_of_failures_deletes_the_evidence() -> None:
    driver = confirming("stock")
    for _ in range(200):
        driver.answer(CONFIRM, "stock", LOST)
        _retried(driver)
    assert (driver.row.state, driver.row.stuck) == (TransactionState.CONFIRMING, True)
    assert (driver.row.branches[0].attempts, driver.row.branches[0].last_error) == (200, "UNAVAILABLE")
    assert driver.called() == ["CONFIRM stock"]


def test_seata_a_try_that_threw_is_cancelled_too() -> None:
    driver = begun("stock")
    driver.answer(TRY, "stock", CallResult(code=OutcomeCode.FAILED, reason="HANDLER_FAILED", permanent=True))
    driver.saved()
    assert driver.called() == ["CANCEL stock"]


def test_hmily_a_decision_lost_in_a_crash_was_never_sent() -> None:
    driver = begun("stock")
    assert driver.answer(TRY, "stock") == (Save(),)
    driver.crash()
    assert driver.tx.state is TransactionState.TRYING
    driver.now = EXPIRES_AT
    driver.resume()
    assert driver.to_end() is TransactionState.CANCELLED


def test_servicecomb_what_a_confirm_needs_survives_every_process() -> None:
    driver = begun(branch("stock", payload=b"7 of sku 1", content_type="text/plain"))
    driver.answer(TRY, "stock", CallResult(code=OutcomeCode.SUCCEEDED, result=b"freeze 9"))
    driver.saved()
    driver.crash()
    driver.resume()
    resumed: Branch = driver.tx.branches[0]
    assert driver.called() == ["CONFIRM stock"]
    assert (resumed.spec.payload, resumed.spec.content_type, resumed.result) == (
        b"7 of sku 1",
        "text/plain",
        b"freeze 9",
    )


def test_others_an_ended_transaction_keeps_its_outcome() -> None:
    driver = confirming("stock")
    driver.answer(CONFIRM, "stock", LOST)
    _retried(driver)
    driver.answer(CONFIRM, "stock")
    assert driver.saved() == (Completed(),)
    assert driver.now == STARTED_AT + 1.0
    assert (driver.row.state, driver.row.branches[0].done) == (TransactionState.CONFIRMED, True)
    assert driver.row.branches[0].attempts == 1
