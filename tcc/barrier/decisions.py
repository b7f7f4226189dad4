"""The barrier: it makes the calls of a branch safe to repeat, reorder and run concurrently.

There is one row per `(gid, branch_id)` in the participant's own database, written in the
same local transaction as the business change. These are the decision tables. `DECISIONS`
below holds the same tables, and no other code of the SDK decides:

| TCC     | no row                           | TRIED                 | CONFIRMED        | CANCELLED         |
|---------|----------------------------------|-----------------------|------------------|-------------------|
| Try     | write TRIED, run, keep result    | replay the result     | replay           | LATE_TRY          |
| Confirm | NOT_TRIED                        | write CONFIRMED, run  | done already     | ALREADY_CANCELLED |
| Cancel  | write CANCELLED: empty cancel    | write CANCELLED, run  | ALREADY_CONFIRMED| done already      |

| SAGA    | no row                           | TRIED                 | CANCELLED         |
|---------|----------------------------------|-----------------------|-------------------|
| Try     | write TRIED, run, keep result    | replay the result     | LATE_TRY          |
| Cancel  | write CANCELLED: empty cancel    | write CANCELLED, run  | done already      |
| Check   | write CANCELLED: NOT_TRIED       | done                  | NOT_TRIED         |

| MESSAGE | no row                           | CONFIRMED             |
|---------|----------------------------------|-----------------------|
| Confirm | write CONFIRMED, run             | done already          |

A kind has no other calls. The row keeps the kind, and a call of another kind is a
BRANCH_CONFLICT. A SAGA's row stays TRIED after the decision CONFIRM, because no call follows it.

The reasons for the less obvious cells:

- *Empty cancel.* The coordinator cancels every branch whose Try has no certain
  result. If the Try never arrived, there is nothing to release, so the Cancel succeeds.
  Its row stays as a *tombstone*.
- *Late Try.* A Try that was delayed by the network finds the tombstone and is refused:
  its reservation would never be confirmed or cancelled. Tombstones are purged long
  after the transaction's expiry. A Try that arrives after that is refused because of its
  expiry (`EXPIRED`), compared with the database's clock when its row would be
  written. The expiry does not matter for a branch that has a row.
- *Confirm without a row* is a failure, never a silent success. It is not
  permanent: the row may be restored, or the initiator's own Try may still be in
  flight, and a decision to confirm is repeated indefinitely in any case.
- *Check* asks for the Try of a branch that its initiator performs in its own database. Without a
  row it leaves a tombstone: then that local transaction can never commit.
- *A purged row* (`ROW_PURGED`). A SAGA's TRIED row is purged long after the expiry. A Cancel or
  Check that comes so late cannot know whether it ever existed, so it does not guess.
- *The same key with other content* (`BRANCH_CONFLICT`) is refused. Either two callers use the
  same gid by mistake, or a gid is reused after the coordinator's log was purged. Running
  either handler would corrupt the data of the other. Content means the action, and the
  digest of action, payload and content type that Try writes into its row. An initiator's
  own Try writes none, and a call that no longer knows the content of the Try has none: these are
  not compared.
"""

from enum import Enum, IntEnum
from typing import NamedTuple


class Operation(IntEnum):
    """The calls, numbered as in the contract."""

    TRY = 1
    CONFIRM = 2
    CANCEL = 3
    CHECK = 4


class BranchKind(IntEnum):
    """What is called on a branch, numbered as in the contract and in the column."""

    TCC = 1
    SAGA = 2
    MESSAGE = 3


class BarrierState(IntEnum):
    """The state of a barrier row, numbered as in the column."""

    TRIED = 1
    CONFIRMED = 2
    CANCELLED = 3


class BarrierDecision(Enum):
    """A cell of the decision table. The value is the message of the result."""

    RUN = "run the handler"
    EMPTY_CANCEL = "done: there was nothing to cancel"
    REPLAY = "return the result of the first Try"
    DONE = "done by an earlier delivery"
    LATE_TRY = "this branch was cancelled before its Try arrived"
    EXPIRED = "the transaction expired before this Try arrived"
    NOT_TRIED = "no Try of this branch is known here"
    ALREADY_CONFIRMED = "this branch is confirmed and cannot be cancelled"
    ALREADY_CANCELLED = "this branch is cancelled and cannot be confirmed"
    BRANCH_CONFLICT = "this branch was tried with another kind, action, payload or content type"
    TRY_FOUND = "the Try has taken effect"
    NO_TRY_FOUND = "the Try has not taken effect, and never will"
    ROW_PURGED = "this call is so late that the branch's row may have been purged: find out what was done"


# `None` means that there is no row. Two decisions are not in these tables: a Try whose claim was
# refused because of its expiry is EXPIRED, and a late Cancel or Check without a row is ROW_PURGED
# (tcc.barrier.plans, `_decide`).
TCC_DECISIONS: dict[tuple[Operation, BarrierState | None], BarrierDecision] = {
    (Operation.TRY, None): BarrierDecision.RUN,
    (Operation.TRY, BarrierState.TRIED): BarrierDecision.REPLAY,
    (Operation.TRY, BarrierState.CONFIRMED): BarrierDecision.REPLAY,
    (Operation.TRY, BarrierState.CANCELLED): BarrierDecision.LATE_TRY,
    (Operation.CONFIRM, None): BarrierDecision.NOT_TRIED,
    (Operation.CONFIRM, BarrierState.TRIED): BarrierDecision.RUN,
    (Operation.CONFIRM, BarrierState.CONFIRMED): BarrierDecision.DONE,
    (Operation.CONFIRM, BarrierState.CANCELLED): BarrierDecision.ALREADY_CANCELLED,
    (Operation.CANCEL, None): BarrierDecision.EMPTY_CANCEL,
    (Operation.CANCEL, BarrierState.TRIED): BarrierDecision.RUN,
    (Operation.CANCEL, BarrierState.CONFIRMED): BarrierDecision.ALREADY_CONFIRMED,
    (Operation.CANCEL, BarrierState.CANCELLED): BarrierDecision.DONE,
}
SAGA_DECISIONS: dict[tuple[Operation, BarrierState | None], BarrierDecision] = {
    (Operation.TRY, None): BarrierDecision.RUN,
    (Operation.TRY, BarrierState.TRIED): BarrierDecision.REPLAY,
    (Operation.TRY, BarrierState.CANCELLED): BarrierDecision.LATE_TRY,
    (Operation.CANCEL, None): BarrierDecision.EMPTY_CANCEL,
    (Operation.CANCEL, BarrierState.TRIED): BarrierDecision.RUN,
    (Operation.CANCEL, BarrierState.CANCELLED): BarrierDecision.DONE,
    (Operation.CHECK, None): BarrierDecision.NO_TRY_FOUND,
    (Operation.CHECK, BarrierState.TRIED): BarrierDecision.TRY_FOUND,
    (Operation.CHECK, BarrierState.CANCELLED): BarrierDecision.NO_TRY_FOUND,
}
MESSAGE_DECISIONS: dict[tuple[Operation, BarrierState | None], BarrierDecision] = {
    (Operation.CONFIRM, None): BarrierDecision.RUN,
    (Operation.CONFIRM, BarrierState.CONFIRMED): BarrierDecision.DONE,
}
DECISIONS = {
    BranchKind.TCC: TCC_DECISIONS,
    BranchKind.SAGA: SAGA_DECISIONS,
    BranchKind.MESSAGE: MESSAGE_DECISIONS,
}

# The state that a claim or a move writes.
WRITES = {
    Operation.TRY: BarrierState.TRIED,
    Operation.CONFIRM: BarrierState.CONFIRMED,
    Operation.CANCEL: BarrierState.CANCELLED,
    Operation.CHECK: BarrierState.CANCELLED,
}
# The calls that write a row if there is none.
CLAIMS = {
    kind: frozenset(
        operation
        for (operation, state), decision in table.items()
        if state is None and decision is not BarrierDecision.NOT_TRIED
    )
    for kind, table in DECISIONS.items()
}


class OutcomeCode(IntEnum):
    """How a call ended, numbered as in the contract."""

    SUCCEEDED = 1
    REJECTED = 2
    FAILED = 3


class CallResult(NamedTuple):
    """The result of one call, with the fields of the contract's CallResult."""

    code: OutcomeCode
    reason: str = ""
    message: str = ""
    result: bytes = b""
    content_type: str = ""
    permanent: bool = False


SUCCEEDED = CallResult(OutcomeCode.SUCCEEDED)
