"""Every cell of the law: what each state does with each event, and each transition with its trigger."""

from typing import get_args

import pytest
from msgspec.structs import replace

from coordinator.core.errors import Refused
from coordinator.core.events import (
    Begun,
    BranchAdded,
    CallCompleted,
    CancelRequested,
    ConfirmRequested,
    Event,
    OperatorCancel,
    OperatorCommand,
    OperatorHold,
    OperatorRelease,
    OperatorResolve,
    OperatorRetry,
    Resumed,
    Saved,
    Woken,
)
from coordinator.core.machine import _REACTIONS, TRANSITIONS, Trigger
from coordinator.core.model import CancelReason, Heuristic, TransactionState, TryState

from .driver import (
    CANCEL,
    CONFIRM,
    EXPIRES_AT,
    HOPELESS,
    POLICY,
    SOLD_OUT,
    SUCCEEDED,
    TRY,
    Driver,
    begun,
    branch,
    cancelling,
    confirming,
    transaction,
)

TRYING, CONFIRMING, CANCELLING, CONFIRMED, CANCELLED = TransactionState
EVENTS = get_args(Event)
ORDERS = get_args(OperatorCommand)
# Happens only to a transaction that has just been accepted, or just been read.
NEVER_THERE = "never there"
NOTHING = ""

# What follows in a transaction with one branch, "stock", that has just reached the
# state durably; in TRYING it is interactive and its Try is under way.
EXPECTED: dict[tuple[TransactionState, type], str] = {
    (TRYING, Begun): "Save",
    (TRYING, Saved): "BranchCall",
    (TRYING, BranchAdded): "Save",
    (TRYING, CallCompleted): "BranchTried",
    (TRYING, ConfirmRequested): NOTHING,  # it waits for the Try
    (TRYING, CancelRequested): "Save",
    (TRYING, Woken): NOTHING,
    (TRYING, Resumed): "BranchCall",
    (CONFIRMING, Begun): NEVER_THERE,
    (CONFIRMING, Saved): "Decided BranchCall",
    (CONFIRMING, BranchAdded): "refused ALREADY_DECIDED",
    (CONFIRMING, CallCompleted): "Save",
    (CONFIRMING, ConfirmRequested): NOTHING,
    (CONFIRMING, CancelRequested): "refused DECISION_CONFLICT",
    (CONFIRMING, Woken): NOTHING,
    (CONFIRMING, Resumed): "BranchCall",
    (CANCELLING, Begun): NEVER_THERE,
    (CANCELLING, Saved): "Decided BranchCall",
    (CANCELLING, BranchAdded): "refused ALREADY_DECIDED",
    (CANCELLING, CallCompleted): "Save",
    (CANCELLING, ConfirmRequested): "refused DECISION_CONFLICT",
    (CANCELLING, CancelRequested): NOTHING,
    (CANCELLING, Woken): NOTHING,
    (CANCELLING, Resumed): "BranchCall",
    (TRYING, OperatorHold): "Save",
    (TRYING, OperatorRelease): "refused TRANSACTION_NOT_HELD",
    (TRYING, OperatorRetry): "refused NOT_DECIDED",
    (TRYING, OperatorCancel): "Save",
    (TRYING, OperatorResolve): "refused NOT_DECIDED",
    (CONFIRMING, OperatorHold): "Save",
    (CONFIRMING, OperatorRelease): "refused TRANSACTION_NOT_HELD",
    (CONFIRMING, OperatorRetry): "Save",
    (CONFIRMING, OperatorCancel): "refused DECISION_CONFLICT",
    (CONFIRMING, OperatorResolve): "Save",
    (CANCELLING, OperatorHold): "Save",
    (CANCELLING, OperatorRelease): "refused TRANSACTION_NOT_HELD",
    (CANCELLING, OperatorRetry): "Save",
    (CANCELLING, OperatorCancel): "refused DECISION_CONFLICT",
    (CANCELLING, OperatorResolve): "Save",
    (CONFIRMED, OperatorHold): "refused TRANSACTION_ENDED",
    (CONFIRMED, OperatorRelease): "refused TRANSACTION_ENDED",
    (CONFIRMED, OperatorRetry): "refused TRANSACTION_ENDED",
    (CONFIRMED, OperatorCancel): "refused TRANSACTION_ENDED",
    (CONFIRMED, OperatorResolve): "refused TRANSACTION_ENDED",
    (CANCELLED, OperatorHold): "refused TRANSACTION_ENDED",
    (CANCELLED, OperatorRelease): "refused TRANSACTION_ENDED",
    (CANCELLED, OperatorRetry): "refused TRANSACTION_ENDED",
    (CANCELLED, OperatorCancel): "refused TRANSACTION_ENDED",
    (CANCELLED, OperatorResolve): "refused TRANSACTION_ENDED",
    (CONFIRMED, Begun): NEVER_THERE,
    (CONFIRMED, Saved): "Completed",
    (CONFIRMED, BranchAdded): "refused ALREADY_DECIDED",
    (CONFIRMED, CallCompleted): NOTHING,
    (CONFIRMED, ConfirmRequested): NOTHING,
    (CONFIRMED, CancelRequested): "refused DECISION_CONFLICT",
    (CONFIRMED, Woken): NOTHING,
    (CONFIRMED, Resumed): NEVER_THERE,
    (CANCELLED, Begun): NEVER_THERE,
    (CANCELLED, Saved): "Completed",
    (CANCELLED, BranchAdded): "refused ALREADY_DECIDED",
    (CANCELLED, CallCompleted): NOTHING,
    (CANCELLED, ConfirmRequested): "refused DECISION_CONFLICT",
    (CANCELLED, CancelRequested): NOTHING,
    (CANCELLED, Woken): NOTHING,
    (CANCELLED, Resumed): NEVER_THERE,
}


def _in_state(state: TransactionState) -> Driver:
    match state:
        case TransactionState.TRYING:
            driver = begun(interactive=True)
            driver.add(branch("stock"))
            driver.saved()
        case TransactionState.CONFIRMING:
            driver = confirming("stock")
        case TransactionState.CANCELLING:
            driver = cancelling("stock")
        case TransactionState.CONFIRMED:
            driver = confirming("stock")
            driver.to_end()
        case TransactionState.CANCELLED:
            driver = cancelling("stock")
            driver.to_end()
    assert driver.tx.state is driver.tx.saved_state is state
    return driver


def _before(state: TransactionState, event: type) -> Driver:
    """The same, where the event asks for a step back: nothing begun, nothing saved, nothing read."""
    if event is Begun:
        return Driver(transaction(branch("stock")))
    if event is Resumed or event in ORDERS:
        driver = _in_state(state)
        driver.crash()
        return driver
    if event is not Saved:
        return _in_state(state)
    match state:
        case TransactionState.TRYING:
            driver = begun(interactive=True)
            driver.add(branch("stock", tried_by_initiator=False))
            driver.tx = replace(driver.tx, interactive=False)  # so that it only sends calls
        case TransactionState.CONFIRMING:
            driver = begun("stock")
            driver.answer(TRY, "stock")
        case TransactionState.CANCELLING:
            driver = begun("stock")
            driver.send(CancelRequested())
        case TransactionState.CONFIRMED:
            driver = confirming("stock")
            driver.answer(CONFIRM, "stock")
        case TransactionState.CANCELLED:
            driver = cancelling("stock")
            driver.answer(CANCEL, "stock")
    assert driver.in_flight is not None
    assert driver.tx.state is state
    return driver


def _event(state: TransactionState, event: type) -> Event:
    operation = TRY if state is TRYING else CONFIRM if state in (CONFIRMING, CONFIRMED) else CANCEL
    if event is BranchAdded:
        return BranchAdded(branch("coupon"), 64, 1_000)
    if event is CallCompleted:
        return CallCompleted(0, operation, SUCCEEDED, POLICY, 0.5)
    if event is OperatorResolve:
        return OperatorResolve("stock", Heuristic.CONFIRMED, "seen in their books")
    if event is OperatorCancel:
        return OperatorCancel("by hand")
    return event()


def _names(effects: tuple[object, ...]) -> str:
    return " ".join(type(effect).__name__ for effect in effects)


def test_the_transition_table_has_every_cell() -> None:
    assert set(EXPECTED) == {(state, event) for state in TransactionState for event in EVENTS}


@pytest.mark.parametrize(
    ("state", "event"), EXPECTED, ids=lambda value: getattr(value, "name", None) or value.__name__
)
def test_cell(state: TransactionState, event: type) -> None:
    expected = EXPECTED[state, event]
    if expected is NEVER_THERE:
        assert event not in _REACTIONS[state]
        return
    driver = _before(state, event)
    before = driver.tx
    if event is Saved:
        assert _names(driver.saved()) == expected
    elif expected.startswith("refused"):
        with pytest.raises(Refused) as refusal:
            driver.send(_event(state, event))
        assert f"refused {refusal.value.reason}" == expected
        assert driver.tx is before
    else:
        assert _names(driver.send(_event(state, event))) == expected
    if expected is NOTHING and event is not ConfirmRequested:
        assert driver.tx == before


def _every_try_succeeds() -> Driver:
    driver = begun("stock")
    driver.answer(TRY, "stock")
    return driver


def _a_try_is_rejected() -> Driver:
    driver = begun("stock")
    driver.answer(TRY, "stock", SOLD_OUT)
    return driver


def _a_try_fails_for_good() -> Driver:
    driver = begun("stock")
    driver.answer(TRY, "stock", HOPELESS)
    return driver


def _the_expiry_passes() -> Driver:
    driver = begun("stock")
    driver.now = EXPIRES_AT
    driver.send(Woken())
    return driver


def _the_initiator_cancels() -> Driver:
    driver = begun("stock")
    driver.send(CancelRequested("changed my mind"))
    return driver


def _every_branch_is_confirmed() -> Driver:
    driver = confirming("stock")
    driver.answer(CONFIRM, "stock")
    return driver


def _every_branch_is_cancelled() -> Driver:
    driver = cancelling("stock")
    driver.answer(CANCEL, "stock")
    return driver


WAYS = {
    (TRYING, Trigger.EVERY_TRY_SUCCEEDED): (_every_try_succeeds, CONFIRMING, CancelReason.NONE, ""),
    (TRYING, Trigger.TRY_REJECTED): (
        _a_try_is_rejected,
        CANCELLING,
        CancelReason.REJECTED,
        "SOLD_OUT",
    ),
    (TRYING, Trigger.TRY_FAILED): (
        _a_try_fails_for_good,
        CANCELLING,
        CancelReason.TRY_FAILED,
        "NO_SUCH_ACTION",
    ),
    (TRYING, Trigger.EXPIRED): (_the_expiry_passes, CANCELLING, CancelReason.EXPIRED, ""),
    (TRYING, Trigger.CANCEL_REQUESTED): (
        _the_initiator_cancels,
        CANCELLING,
        CancelReason.REQUESTED,
        "changed my mind",
    ),
    (CONFIRMING, Trigger.EVERY_BRANCH_DONE): (_every_branch_is_confirmed, CONFIRMED, CancelReason.NONE, ""),
    (CANCELLING, Trigger.EVERY_BRANCH_DONE): (
        _every_branch_is_cancelled,
        CANCELLED,
        CancelReason.REQUESTED,
        "changed my mind",
    ),
}


def test_every_transition_has_its_way() -> None:
    assert set(WAYS) == {(state, trigger) for state, ways in TRANSITIONS.items() for trigger in ways}


@pytest.mark.parametrize(("state", "trigger"), WAYS, ids=lambda value: value.name)
def test_transition(state: TransactionState, trigger: Trigger) -> None:
    go, after, reason, detail = WAYS[state, trigger]
    driver = go()
    assert driver.tx.state is after is TRANSITIONS[state][trigger]
    assert (driver.tx.cancel_reason, driver.tx.cancel_detail) == (reason, detail)
    assert driver.in_flight == driver.tx  # and it is being written as it stands


def test_a_rejected_and_a_failed_try_name_their_branch() -> None:
    for answer, tried in ((SOLD_OUT, TryState.REJECTED), (HOPELESS, TryState.FAILED)):
        driver = begun("stock", "coupon")
        driver.answer(TRY, "coupon", answer)
        assert driver.tx.cancel_branch_id == "coupon"
        assert driver.branch("coupon").tried is tried
