"""What a request waits for is reached when it is durable, and not before."""

import pytest

from coordinator.core.errors import OwnerChanged, Refused
from coordinator.core.model import Branch, BranchSpec, Transaction, TransactionState, TryState
from coordinator.engine.live import LiveTransactions
from coordinator.engine.waiting import Milestone, Waiter, is_reached
from coordinator.ports.log import Record

ACCEPTED, REGISTERED, TRIED, DECIDED, COMPLETED = Milestone


def _transaction(
    saved_state: TransactionState | None, *, state: TransactionState | None = None, **fields: object
) -> Transaction:
    return Transaction(
        gid="g",
        branches=fields.pop("branches", ()),
        expires_at=0.0,
        state=state or saved_state or TransactionState.TRYING,
        saved_state=saved_state,
        **fields,
    )


def _branch(branch_id: str, tried: TryState = TryState.UNKNOWN) -> Branch:
    return Branch(spec=BranchSpec(branch_id=branch_id, participant="p", action="a"), tried=tried)


# Which milestones the durable state alone reaches, for a branch that is not known.
REACHED = {
    None: set(),
    TransactionState.TRYING: {ACCEPTED},
    TransactionState.CONFIRMING: {ACCEPTED, REGISTERED, TRIED, DECIDED},
    TransactionState.CANCELLING: {ACCEPTED, REGISTERED, TRIED, DECIDED},
    TransactionState.CONFIRMED: set(Milestone),
    TransactionState.CANCELLED: set(Milestone),
}


def test_the_table_has_every_state() -> None:
    assert set(REACHED) == {None, *TransactionState}


@pytest.mark.parametrize("saved_state", REACHED, ids=str)
def test_what_is_durable_decides(saved_state: TransactionState | None) -> None:
    tx = _transaction(saved_state)
    assert {m for m in Milestone if is_reached(m, tx, "stock")} == REACHED[saved_state]


@pytest.mark.parametrize("state", [state for state in TransactionState if state.decided])
def test_a_decision_in_memory_reaches_nothing(state: TransactionState) -> None:
    tx = _transaction(TransactionState.TRYING, state=state)
    assert {m for m in Milestone if is_reached(m, tx, "stock")} == {ACCEPTED}


@pytest.mark.parametrize(("saved_branches", "reached"), [(0, False), (1, False), (2, True)])
def test_a_branch_is_registered_when_the_log_holds_it(saved_branches: int, reached: bool) -> None:  # noqa: FBT001
    tx = _transaction(
        TransactionState.TRYING, branches=(_branch("stock"), _branch("coupon")), saved_branches=saved_branches
    )
    assert is_reached(REGISTERED, tx, "coupon") is reached


@pytest.mark.parametrize("tried", TryState)
def test_a_branch_is_tried_when_its_try_has_succeeded(tried: TryState) -> None:
    """A no ends the wait too, by the decision that it brings."""
    tx = _transaction(
        TransactionState.TRYING, branches=(_branch("stock", tried), _branch("coupon")), saved_branches=2
    )
    assert is_reached(TRIED, tx, "stock") is (tried is TryState.SUCCEEDED)
    assert not is_reached(TRIED, tx, "coupon")


class _Request(Waiter):
    failure: Refused | None = None

    def settle(self, tx: Transaction) -> None:
        raise AssertionError(f"{tx.gid} has not reached it")

    def fail(self, error: Refused) -> None:
        self.failure = error

    def is_cancelled(self) -> bool:
        return False


@pytest.mark.parametrize("is_command", [True, False])
def test_a_command_does_not_wait_for_a_transaction_that_forgot_it(is_command: bool) -> None:  # noqa: FBT001
    """It was parked with the command in memory alone, and is live here again."""
    transactions = LiveTransactions({}, bytes_max=1_000)
    entry = transactions.remember(_transaction(TransactionState.TRYING), begun=False)
    request = _Request(DECIDED, is_command=is_command)
    transactions.watched["g"] = [request]
    transactions.settle_watched(["g"], {"g": Record(tx=entry.tx, owner="ours", created_at=0.0)})
    assert isinstance(request.failure, OwnerChanged) is is_command
    assert entry.waiters == ([] if is_command else [request])


@pytest.mark.parametrize("is_command", [True, False])
@pytest.mark.parametrize("state", [TransactionState.TRYING, TransactionState.CONFIRMING])
def test_a_command_is_sent_again_if_it_came_while_the_row_was_parked(
    state: TransactionState,
    is_command: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """It came while the row was written. Nothing but its repetition has an effect, unless all is decided."""
    transactions = LiveTransactions({}, bytes_max=1_000)
    entry = transactions.remember(_transaction(state, next_attempt_at=5.0), begun=False)
    request = _Request(COMPLETED, is_command=is_command)
    transactions.wait_for(entry, request)
    transactions.park(entry)
    is_refused = is_command and state is TransactionState.TRYING
    assert isinstance(request.failure, OwnerChanged) is is_refused
    assert transactions.watched == ({} if is_refused else {"g": [request]})
