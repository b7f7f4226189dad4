"""What does not agree between a participant's row and the log, cell by cell."""

import pytest
from msgspec.structs import replace

from coordinator.core.model import (
    Branch,
    BranchKind,
    BranchSpec,
    Heuristic,
    Operation,
    Transaction,
    TransactionState,
)
from coordinator.core.reconciliation import (
    LOCAL_ACTION,
    BarrierRow,
    BarrierState,
    Finding,
    FindingKind,
    compare_row,
)

TRIED, CONFIRMED, CANCELLED = BarrierState
CONFIRM, CANCEL = Operation.CONFIRM, Operation.CANCEL
ORPHAN, LEAK, MIXED = FindingKind
DAY_S = 86_400.0


def row(state: BarrierState = TRIED, **fields: object) -> BarrierRow:
    return BarrierRow(
        **({"gid": "g", "branch_id": "1", "action": "reserve", "state": state, "age_s": 600.0} | fields)
    )


def transaction(
    state: TransactionState, *, done: bool = False, word: Heuristic = Heuristic.NONE, **spec: object
) -> Transaction:
    asked = {"branch_id": "1", "participant": "stock", "action": "reserve"} | spec
    branch = Branch(spec=BranchSpec(**asked), done=done or state.ended, heuristic=word)
    return Transaction(gid="g", branches=(branch,), expires_at=0.0, state=state)


def judged(state: BarrierState, tx: Transaction | None) -> Finding | None:
    return compare_row("stock", row(state), tx, retention_s=7 * DAY_S)


def brief(finding: Finding | None) -> tuple[FindingKind, Operation | None, frozenset[Operation]] | None:
    return finding and (finding.kind, finding.repair, finding.repairs)


EITHER = frozenset({CONFIRM, CANCEL})
NONE_ = frozenset[Operation]()
ONLY_CONFIRM = (LEAK, CONFIRM, frozenset({CONFIRM}))
ONLY_CANCEL = (LEAK, CANCEL, frozenset({CANCEL}))
HOPELESS = (MIXED, None, NONE_)


@pytest.mark.parametrize(
    ("barrier", "tx", "wanted"),
    [
        # What lives, or agrees, is no finding.
        (TRIED, transaction(TransactionState.TRYING), None),
        (TRIED, transaction(TransactionState.CONFIRMING), None),
        (TRIED, transaction(TransactionState.CANCELLING), None),
        (CONFIRMED, transaction(TransactionState.CONFIRMING), None),
        (CONFIRMED, transaction(TransactionState.CONFIRMED), None),
        (CANCELLED, transaction(TransactionState.CANCELLING), None),
        (CANCELLED, transaction(TransactionState.CANCELLED), None),
        # A Cancel may come before anything is decided: nothing was changed by it.
        (CANCELLED, transaction(TransactionState.TRYING), None),
        # Open, though the log knows that it is done.
        (TRIED, transaction(TransactionState.CONFIRMED), ONLY_CONFIRM),
        (TRIED, transaction(TransactionState.CANCELLED), ONLY_CANCEL),
        (TRIED, transaction(TransactionState.CONFIRMING, done=True), ONLY_CONFIRM),
        (TRIED, transaction(TransactionState.CANCELLING, done=True), ONLY_CANCEL),
        # Done by an operator's word: what was done by hand must not be done again.
        (TRIED, transaction(TransactionState.CONFIRMED, word=Heuristic.CONFIRMED), (LEAK, None, EITHER)),
        (TRIED, transaction(TransactionState.CONFIRMED, word=Heuristic.CANCELLED), (LEAK, None, EITHER)),
        # The other way than was decided.
        (CANCELLED, transaction(TransactionState.CONFIRMING), HOPELESS),
        (CANCELLED, transaction(TransactionState.CONFIRMED), HOPELESS),
        (CONFIRMED, transaction(TransactionState.CANCELLING), HOPELESS),
        (CONFIRMED, transaction(TransactionState.CANCELLED), HOPELESS),
        (CONFIRMED, transaction(TransactionState.TRYING), HOPELESS),
        # As an operator has recorded it, and not.
        (CANCELLED, transaction(TransactionState.CONFIRMED, word=Heuristic.CANCELLED), None),
        (CONFIRMED, transaction(TransactionState.CONFIRMED, word=Heuristic.CANCELLED), HOPELESS),
        # A transaction that is not in the log: only open branches matter.
        (TRIED, None, (ORPHAN, CANCEL, EITHER)),
        (CONFIRMED, None, None),
        (CANCELLED, None, None),
        # A branch that is not in the log.
        (TRIED, transaction(TransactionState.TRYING, branch_id="2"), (ORPHAN, CANCEL, EITHER)),
        (TRIED, transaction(TransactionState.CONFIRMED, action="other"), (ORPHAN, CANCEL, EITHER)),
        (CANCELLED, transaction(TransactionState.CONFIRMED, branch_id="2"), None),
        (CONFIRMED, transaction(TransactionState.CONFIRMED, branch_id="2"), None),
        (CONFIRMED, transaction(TransactionState.CANCELLED, branch_id="2"), HOPELESS),
        # A branch at another participant: two may share a database.
        (TRIED, transaction(TransactionState.CONFIRMED, participant="coupon"), None),
        (CONFIRMED, transaction(TransactionState.CANCELLED, participant="coupon"), None),
    ],
)
def test_every_cell(barrier: BarrierState, tx: Transaction | None, wanted: object) -> None:
    assert brief(judged(barrier, tx)) == wanted


def test_an_orphan_older_than_the_log_s_memory_gets_no_proposal() -> None:
    """It may have been confirmed, and forgotten: cancelling it could undo what was sold."""
    just = compare_row("stock", row(age_s=7 * DAY_S - 1), None, retention_s=7 * DAY_S)
    older = compare_row("stock", row(age_s=7 * DAY_S), None, retention_s=7 * DAY_S)
    assert brief(just) == (ORPHAN, CANCEL, EITHER)
    assert brief(older) == (ORPHAN, None, EITHER)
    assert older is not None
    assert "may have been confirmed" in older.explanation


def test_a_finding_names_its_row_and_its_kind() -> None:
    finding = compare_row("stock", row(CANCELLED), transaction(TransactionState.CONFIRMED), retention_s=DAY_S)
    assert finding is not None
    assert (finding.participant, finding.row, finding.state) == (
        "stock",
        row(CANCELLED),
        TransactionState.CONFIRMED,
    )
    assert finding.explanation == "it is cancelled, but CONFIRM was decided; no call can repair that"
    assert replace(finding.row, state=TRIED).key == ("g", "1")


SAGA = BranchKind.SAGA
UNKNOWN_BRANCH = transaction(TransactionState.CONFIRMED, branch_id="2")
OTHER_WORD = transaction(TransactionState.CONFIRMED, word=Heuristic.CANCELLED, kind=SAGA)


@pytest.mark.parametrize(
    ("tx", "wanted"),
    [
        # A saga has no Confirm: it is compensated, or stays as it is.
        (None, (ORPHAN, CANCEL, frozenset({CANCEL}))),
        (UNKNOWN_BRANCH, (ORPHAN, CANCEL, frozenset({CANCEL}))),
        (OTHER_WORD, (LEAK, None, frozenset({CANCEL}))),
        (transaction(TransactionState.CANCELLED, kind=SAGA), ONLY_CANCEL),
        (transaction(TransactionState.CONFIRMED, kind=SAGA), None),
    ],
)
def test_a_saga_is_never_to_be_confirmed(tx: Transaction | None, wanted: object) -> None:
    assert brief(compare_row("stock", row(kind=SAGA), tx, retention_s=7 * DAY_S)) == wanted


@pytest.mark.parametrize("tx", [None, UNKNOWN_BRANCH])
def test_no_call_repairs_an_orphan_that_its_initiator_committed(tx: Transaction | None) -> None:
    finding = compare_row("stock", row(kind=SAGA, action=LOCAL_ACTION), tx, retention_s=7 * DAY_S)
    assert brief(finding) == (ORPHAN, None, NONE_)
    assert finding is not None
    assert "its initiator has committed it" in finding.explanation
