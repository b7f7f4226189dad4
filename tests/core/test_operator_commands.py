"""An operator's orders: what they leave in the row, and what follows when it is taken up again."""

import pytest
from msgspec.structs import replace

from coordinator.core.errors import BranchDone, BranchNotFound, TransactionHeld
from coordinator.core.events import (
    BranchAdded,
    CancelRequested,
    Completed,
    ConfirmRequested,
    OperatorCancel,
    OperatorCommand,
    OperatorHold,
    OperatorRelease,
    OperatorResolve,
    OperatorRetry,
)
from coordinator.core.machine import branch_call
from coordinator.core.model import HELD, NOW, BranchCall, CancelReason, Heuristic, TransactionState

from .driver import (
    CANCEL,
    CONFIRM,
    EXPIRES_AT,
    HOPELESS,
    LOST,
    SUCCEEDED,
    TRY,
    Driver,
    begun,
    branch,
    cancelling,
    confirming,
)


def give(driver: Driver, order: OperatorCommand) -> tuple[object, ...]:
    """Execute the command on the row; the previous owner has lost the transaction."""
    driver.crash()
    driver.send(order)
    return driver.saved()


def resolved(branch_id: str, outcome: Heuristic = Heuristic.CONFIRMED) -> OperatorResolve:
    return OperatorResolve(branch_id, outcome, "seen in their books")


@pytest.mark.parametrize("make", [lambda: begun("stock"), lambda: confirming("stock")])
def test_a_held_transaction_is_parked_and_calls_no_participant(make) -> None:
    driver = make()
    state = driver.tx.state
    effects = give(driver, OperatorHold())
    assert not any(isinstance(effect, BranchCall) for effect in effects)
    assert driver.tx.held
    assert (driver.tx.state, driver.tx.next_attempt_at, driver.tx.waiting_on) == (state, HELD, "")


def test_a_released_transaction_is_due_and_goes_on() -> None:
    driver = confirming("stock")
    give(driver, OperatorHold())
    give(driver, OperatorRelease())
    assert not driver.tx.held
    assert driver.tx.next_attempt_at == driver.now
    assert driver.resume() == (branch_call(driver.tx, 0, CONFIRM),)


def test_a_transaction_released_past_its_expiry_is_cancelled() -> None:
    driver = begun("stock")
    give(driver, OperatorHold())
    driver.now = EXPIRES_AT
    give(driver, OperatorRelease())
    driver.resume()
    assert (driver.tx.state, driver.tx.cancel_reason) == (TransactionState.CANCELLING, CancelReason.EXPIRED)


@pytest.mark.parametrize(
    "request_", [ConfirmRequested(), CancelRequested(), BranchAdded(branch("coupon"), 64, 1_000)]
)
def test_while_it_is_held_no_initiator_moves_it(request_) -> None:
    driver = begun(interactive=True)
    give(driver, OperatorHold())
    before = driver.tx
    with pytest.raises(TransactionHeld):
        driver.send(request_)
    assert driver.tx is before


def test_what_is_held_is_neither_held_again_nor_retried() -> None:
    driver = confirming("stock")
    give(driver, OperatorHold())
    for order in (OperatorHold(), OperatorRetry()):
        with pytest.raises(TransactionHeld):
            give(driver, order)


def test_retry_makes_every_unfinished_branch_due() -> None:
    driver = confirming("stock", "coupon", "order")
    driver.answer(CONFIRM, "stock")
    driver.answer(CONFIRM, "coupon", LOST)
    driver.answer(CONFIRM, "order", HOPELESS)
    driver.saved()
    assert min(driver.branch("coupon").next_attempt_at, driver.branch("order").next_attempt_at) > driver.now
    give(driver, OperatorRetry())
    assert [b.next_attempt_at for b in driver.tx.branches] == [NOW, NOW, NOW]
    assert driver.resume() == (branch_call(driver.tx, 1, CONFIRM), branch_call(driver.tx, 2, CONFIRM))
    assert driver.branch("coupon").attempts == 1


def test_an_operator_cancel_keeps_its_reason_and_ends_a_hold() -> None:
    driver = begun("stock")
    give(driver, OperatorHold())
    give(driver, OperatorCancel("the customer called"))
    tx = driver.tx
    assert (tx.state, tx.cancel_reason, tx.cancel_detail) == (
        TransactionState.CANCELLING,
        CancelReason.REQUESTED,
        "the customer called",
    )
    assert tx.next_attempt_at == driver.now
    assert not tx.held
    assert driver.resume() == (branch_call(driver.tx, 0, CANCEL),)


@pytest.mark.parametrize(
    ("outcome", "mixed"), [(Heuristic.CONFIRMED, False), (Heuristic.CANCELLED, True)], ids=str
)
def test_a_resolved_branch_counts_as_done_and_never_flips_the_decision(outcome, mixed) -> None:
    driver = confirming("stock", "coupon")
    give(driver, resolved("stock", outcome))
    assert driver.tx.state is TransactionState.CONFIRMING
    assert driver.resume() == (branch_call(driver.tx, 1, CONFIRM),)
    driver.answer(CONFIRM, "coupon")
    assert Completed() in driver.saved()
    assert driver.tx.state is TransactionState.CONFIRMED
    assert (driver.tx.heuristic, driver.tx.mixed) == (True, mixed)
    stock = driver.branch("stock")
    assert (stock.heuristic, stock.heuristic_reason) == (outcome, "seen in their books")


def test_resolving_the_last_branch_ends_the_transaction_held_or_not() -> None:
    for held in (False, True):
        driver = cancelling("stock")
        if held:
            give(driver, OperatorHold())
        assert Completed() in give(driver, resolved("stock"))
        assert driver.tx.state is TransactionState.CANCELLED
        assert driver.tx.mixed


def test_resolving_one_of_two_branches_leaves_the_hold() -> None:
    driver = confirming("stock", "coupon")
    give(driver, OperatorHold())
    give(driver, resolved("stock"))
    assert driver.tx.held


def test_a_branch_that_is_done_or_unknown_is_not_resolved() -> None:
    driver = confirming("stock", "coupon")
    driver.answer(CONFIRM, "stock")
    driver.answer(CONFIRM, "coupon", LOST)
    driver.saved()
    with pytest.raises(BranchDone):
        give(driver, resolved("stock"))
    with pytest.raises(BranchNotFound):
        give(driver, resolved("nothing"))


def test_a_transaction_without_operator_commands_is_not_heuristic() -> None:
    driver = confirming("stock")
    driver.to_end()
    assert not driver.tx.heuristic
    assert not driver.tx.mixed
    assert not replace(driver.tx, next_attempt_at=EXPIRES_AT).held


def test_a_result_for_the_former_owner_does_not_undo_a_command() -> None:
    """The former owner's next write names a version that is gone."""
    driver = begun("stock")
    former = driver.tx
    give(driver, OperatorCancel("by hand"))
    owner = Driver(former)
    owner.answer(TRY, "stock", SUCCEEDED)
    assert owner.in_flight is not None
    assert owner.in_flight.version < driver.tx.version
