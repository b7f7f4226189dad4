"""Branch kinds: what is called, what is not, and what is written for it."""

import pytest

from coordinator.core.errors import (
    BranchConflict,
    BranchPending,
    CheckBackExists,
    DecisionConflict,
    NotDecided,
    TooManyBranches,
    TryPending,
)
from coordinator.core.events import (
    BecameStuck,
    BranchAdded,
    BranchRegistered,
    CancelRequested,
    CheckFailed,
    Completed,
    ConfirmRequested,
    Decided,
    OperatorCancel,
    OperatorResolve,
    OperatorRetry,
    Parked,
    Save,
    Woken,
)
from coordinator.core.kinds import new_branch
from coordinator.core.model import (
    BranchKind,
    BranchSpec,
    CallResult,
    CancelReason,
    Heuristic,
    OutcomeCode,
    Transaction,
    TransactionState,
)

from .driver import (
    CANCEL,
    CHECK,
    CONFIRM,
    EXPIRES_AT,
    HOPELESS,
    LOST,
    NOT_CONFIGURED,
    SOLD_OUT,
    STARTED_AT,
    TRY,
    Driver,
    branch,
)

NOT_TRIED = CallResult(code=OutcomeCode.REJECTED, reason="NOT_TRIED")


def saga(branch_id: str, stage: int = 0) -> BranchSpec:
    return branch(branch_id, kind=BranchKind.SAGA, stage=stage)


def message(branch_id: str, not_before: float = 0.0) -> BranchSpec:
    return branch(branch_id, kind=BranchKind.MESSAGE, not_before=not_before)


LOCAL = branch("local", kind=BranchKind.SAGA, tried_by_initiator=True, check_back=True)


def begun(*specs: BranchSpec, interactive: bool = False) -> Driver:
    driver = Driver(
        Transaction(
            gid="g",
            branches=tuple(map(new_branch, specs)),
            expires_at=EXPIRES_AT,
            interactive=interactive,
        )
    )
    driver.begin()
    driver.saved()
    return driver


def local_first(*messages: BranchSpec) -> Driver:
    """A transaction whose initiator may commit its local change: stock is tried, the list is closed."""
    driver = begun(interactive=True)
    driver.add(branch("stock"))
    driver.saved()
    driver.answer(TRY, "stock")
    driver.send(BranchAdded(LOCAL, 64, 1_000, messages))
    driver.saved()
    return driver


def expired(driver: Driver) -> Driver:
    driver.now = EXPIRES_AT
    driver.send(Woken())
    return driver


# --- SAGA and MESSAGE ----------------------------------------------------------


def test_sagas_alone_end_with_their_decision() -> None:
    driver = begun(saga("charge"), saga("book"))
    assert driver.called() == ["TRY charge", "TRY book"]
    driver.answer(TRY, "charge")
    assert driver.answer(TRY, "book") == (Save(),)
    assert driver.saved() == (Decided(), Completed())
    assert driver.tx.state is TransactionState.CONFIRMED


def test_a_message_is_called_after_the_decision_and_not_before() -> None:
    driver = begun(branch("stock"), message("mail"))
    assert driver.called() == ["TRY stock"]
    driver.answer(TRY, "stock")
    assert driver.called() == []
    driver.saved()
    assert driver.called() == ["CONFIRM stock", "CONFIRM mail"]


def test_messages_alone_begin_with_the_decision() -> None:
    driver = Driver(
        Transaction(gid="g", branches=tuple(map(new_branch, [message("mail")])), expires_at=EXPIRES_AT)
    )
    assert driver.begin() == (Save(),)
    assert driver.tx.state is TransactionState.CONFIRMING
    assert Decided() in driver.saved()
    assert driver.called() == ["CONFIRM mail"]


def test_a_cancel_calls_no_message() -> None:
    driver = begun(branch("stock"), message("mail"))
    driver.answer(TRY, "stock", SOLD_OUT)
    driver.saved()
    assert driver.called() == ["CANCEL stock"]
    assert driver.to_end() is TransactionState.CANCELLED


def test_confirm_calls_no_saga_beside_tcc() -> None:
    driver = begun(branch("stock"), saga("charge"))
    driver.answer(TRY, "stock")
    driver.answer(TRY, "charge")
    driver.saved()
    assert driver.called() == ["CONFIRM stock"]
    assert driver.branch("charge").done


def test_sagas_are_compensated_from_the_last_stage_to_the_first() -> None:
    driver = begun(saga("one"), saga("two", stage=1), saga("three", stage=1), branch("stock"))
    driver.answer(TRY, "one")
    driver.answer(TRY, "stock")
    driver.answer(TRY, "two")
    driver.answer(TRY, "three", SOLD_OUT)
    driver.saved()
    # What has no order waits for none; a rejected saga is cancelled, too.
    assert driver.called() == ["CANCEL two", "CANCEL three", "CANCEL stock"]
    driver.answer(CANCEL, "two")
    assert driver.called() == []
    driver.answer(CANCEL, "three")
    assert driver.called() == ["CANCEL one"]


def test_a_message_for_later_parks_and_counts_no_attempt() -> None:
    later = STARTED_AT + 20
    driver = begun(branch("stock"), message("mail", later))
    driver.answer(TRY, "stock")
    driver.saved()
    assert driver.called() == ["CONFIRM stock"]
    driver.answer(CONFIRM, "stock")
    assert driver.saved() == (Parked(),)
    assert (driver.tx.next_attempt_at, driver.tx.waiting_on) == (later, "mail-service")
    assert (driver.branch("mail").attempts, driver.tx.stuck) == (0, False)
    driver.now = later
    driver.resume()
    assert driver.called() == ["CONFIRM mail"]


def test_a_message_whose_time_has_passed_is_called_at_once() -> None:
    driver = begun(branch("stock"), message("mail", STARTED_AT - 1))
    driver.answer(TRY, "stock")
    driver.saved()
    assert driver.called() == ["CONFIRM stock", "CONFIRM mail"]


def test_an_operators_retry_does_not_deliver_before_its_time() -> None:
    later = STARTED_AT + 20
    driver = begun(message("mail", later))
    driver.saved()
    driver.send(OperatorRetry())
    assert driver.branch("mail").next_attempt_at == later


# --- messages with the confirm -------------------------------------------------


def test_messages_come_with_the_confirm_in_one_write() -> None:
    driver = begun(interactive=True)
    driver.send(ConfirmRequested((message("mail"),), 64, 1_000))
    assert driver.tx.state is TransactionState.CONFIRMING
    driver.saved()
    assert driver.called() == ["CONFIRM mail"]


def test_a_repeated_confirm_may_have_the_same_messages_only() -> None:
    driver = begun(interactive=True)
    request = ConfirmRequested((message("mail"),), 64, 1_000)
    driver.send(request)
    with pytest.raises(BranchPending):
        driver.send(ConfirmRequested((message("other"),), 64, 1_000))
    driver.saved()
    assert driver.send(request) == ()
    with pytest.raises(BranchConflict):
        driver.send(ConfirmRequested((message("other"),), 64, 1_000))
    with pytest.raises(BranchConflict):
        driver.send(ConfirmRequested((message("mail", STARTED_AT + 1),), 64, 1_000))


def test_messages_are_within_the_bounds_of_a_transaction() -> None:
    driver = begun(interactive=True)
    with pytest.raises(TooManyBranches):
        driver.send(ConfirmRequested((message("a"), message("b")), 1, 1_000))
    assert driver.tx.branches == ()


# --- check-back ------------------------------------------------------------------


def test_a_check_back_branch_waits_for_every_try() -> None:
    driver = begun(interactive=True)
    driver.add(branch("stock"))
    driver.saved()
    with pytest.raises(TryPending):
        driver.add(LOCAL)
    driver.answer(TRY, "stock", LOST)
    with pytest.raises(TryPending):
        driver.add(LOCAL)


def test_its_registration_vouches_for_the_initiators_own_trys() -> None:
    driver = begun(interactive=True)
    driver.add(branch("own", tried_by_initiator=True))
    driver.saved()
    driver.add(LOCAL)
    driver.saved()
    assert driver.row is not None
    assert expired(driver).called() == ["CHECK local"]
    driver.answer(CHECK, "local")
    driver.saved()
    assert driver.called() == ["CONFIRM own"]


def test_it_closes_the_list_of_branches() -> None:
    driver = local_first()
    for spec in (branch("more"), saga("more"), branch("second", check_back=True, kind=BranchKind.SAGA)):
        with pytest.raises(CheckBackExists):
            driver.add(spec)
    with pytest.raises(CheckBackExists):
        driver.send(ConfirmRequested((message("mail"),), 64, 1_000))


def test_its_registration_can_be_repeated_with_the_same_messages() -> None:
    driver = local_first(message("mail"))
    index = driver.index("local")
    assert driver.send(BranchAdded(LOCAL, 64, 1_000, (message("mail"),))) == (BranchRegistered(index),)
    for messages in ((), (message("other"),)):
        with pytest.raises(BranchConflict):
            driver.send(BranchAdded(LOCAL, 64, 1_000, messages))


def test_a_local_change_that_is_found_confirms() -> None:
    driver = expired(local_first(message("mail")))
    assert driver.called() == ["CHECK local"]
    assert driver.answer(CHECK, "local") == (Save(),)
    driver.saved()
    assert driver.called() == ["CONFIRM stock", "CONFIRM mail"]
    assert driver.to_end() is TransactionState.CONFIRMED


def test_a_local_change_that_never_comes_cancels() -> None:
    driver = expired(local_first(message("mail")))
    driver.answer(CHECK, "local", NOT_TRIED)
    assert driver.tx.cancel_reason is CancelReason.EXPIRED
    assert (driver.tx.cancel_branch_id, driver.tx.cancel_detail) == ("local", "NOT_TRIED")
    driver.saved()
    assert driver.called() == ["CANCEL stock"]


@pytest.mark.parametrize("answer", [LOST, HOPELESS, NOT_CONFIGURED])
def test_no_answer_decides_nothing(answer: CallResult) -> None:
    driver = expired(local_first())
    effects = driver.answer(CHECK, "local", answer)
    assert CheckFailed(driver.index("local")) in effects
    assert driver.saved() == (Parked(),)
    assert driver.tx.state is TransactionState.TRYING
    assert driver.tx.waiting_on == "local-service"
    driver.now = driver.tx.next_attempt_at
    driver.crash()
    driver.resume()
    assert driver.called() == ["CHECK local"]


def test_an_unanswered_check_is_stuck_until_it_is_answered() -> None:
    driver = expired(local_first())
    stuck = []
    for _ in range(4):
        stuck += [effect for effect in driver.answer(CHECK, "local", LOST) if isinstance(effect, BecameStuck)]
        driver.saved()
        driver.now = driver.tx.next_attempt_at
        driver.crash()
        driver.resume()
    assert stuck == [BecameStuck(driver.index("local"))]
    assert driver.tx.stuck
    driver.answer(CHECK, "local")
    assert (driver.tx.state, driver.tx.stuck) == (TransactionState.CONFIRMING, False)


def test_the_initiators_confirm_needs_no_question() -> None:
    driver = expired(local_first())
    assert driver.send(ConfirmRequested()) == (Save(),)
    driver.saved()
    assert driver.called() == ["CONFIRM stock"]
    assert driver.answer(CHECK, "local", NOT_TRIED) == ()


def test_a_cancel_asks_first() -> None:
    driver = local_first()
    driver.send(CancelRequested("changed my mind"))
    assert driver.called() == ["CHECK local"]
    driver.answer(CHECK, "local", NOT_TRIED)
    assert (driver.tx.cancel_reason, driver.tx.cancel_detail) == (CancelReason.REQUESTED, "changed my mind")


def test_a_cancel_after_the_local_commit_is_refused() -> None:
    driver = local_first()
    driver.send(CancelRequested("changed my mind"))
    driver.answer(CHECK, "local")
    assert driver.tx.cancel_reason is CancelReason.NONE
    driver.saved()
    with pytest.raises(DecisionConflict):
        driver.send(CancelRequested("changed my mind"))


def test_a_cancel_before_the_registration_is_durable_asks_too() -> None:
    driver = begun(interactive=True)
    driver.add(LOCAL)
    assert driver.send(CancelRequested("")) == ()
    driver.saved()
    assert driver.called() == ["CHECK local"]


def test_a_cancel_without_an_answer_is_remembered_in_the_row() -> None:
    driver = local_first()
    driver.send(CancelRequested("changed my mind"))
    driver.answer(CHECK, "local", LOST)
    driver.saved()
    driver.now = driver.tx.next_attempt_at
    driver.crash()
    driver.resume()
    assert driver.called() == ["CHECK local"]
    assert driver.now < EXPIRES_AT


def test_the_expiry_waits_for_the_registration_that_is_in_flight() -> None:
    driver = begun(interactive=True)
    driver.add(LOCAL)
    expired(driver)
    assert driver.tx.state is TransactionState.TRYING
    driver.saved()
    assert driver.called() == ["CHECK local"]


def test_after_an_adoption_every_other_branch_is_tried() -> None:
    driver = local_first()
    driver.now = EXPIRES_AT
    driver.crash()
    driver.resume()
    assert driver.called() == ["CHECK local"]
    driver.answer(CHECK, "local")
    assert driver.tx.state is TransactionState.CONFIRMING


def test_operators_cancel_asks_first() -> None:
    driver = local_first()
    driver.send(OperatorCancel("gone"))
    assert driver.tx.state is TransactionState.TRYING
    driver.saved()
    driver.crash()
    driver.resume()
    assert driver.called() == ["CHECK local"]
    driver.answer(CHECK, "local", NOT_TRIED)
    assert (driver.tx.cancel_reason, driver.tx.cancel_detail) == (CancelReason.REQUESTED, "gone")


def test_operators_retry_asks_again_but_only_what_is_asked() -> None:
    driver = local_first()
    with pytest.raises(NotDecided):
        driver.send(OperatorRetry())
    expired(driver)
    driver.answer(CHECK, "local", LOST)
    driver.saved()
    driver.crash()
    driver.send(OperatorRetry())
    assert driver.tx.next_attempt_at == driver.now


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Heuristic.CONFIRMED, TransactionState.CONFIRMING),
        (Heuristic.CANCELLED, TransactionState.CANCELLING),
    ],
)
def test_an_operators_word_on_the_local_change_is_the_decision(
    outcome: Heuristic, state: TransactionState
) -> None:
    driver = local_first()
    with pytest.raises(NotDecided):
        driver.send(OperatorResolve("stock", outcome, "by hand"))
    driver.send(OperatorResolve("local", outcome, "by hand"))
    assert driver.tx.state is state
    assert driver.tx.heuristic
    assert not driver.tx.mixed
    assert driver.branch("local").heuristic_reason == "by hand"
    driver.saved()
    driver.crash()
    driver.resume()
    assert driver.called() == [f"{'CONFIRM' if outcome is Heuristic.CONFIRMED else 'CANCEL'} stock"]
