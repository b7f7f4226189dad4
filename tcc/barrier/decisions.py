"""The barrier: it makes Try, Confirm and Cancel safe to repeat, reorder and run concurrently.

There is one row per `(gid, branch_id)` in the participant's own database, written in the
same local transaction as the business change. This is the decision table. `DECISIONS`
below is the same table, and no other code of the SDK decides:

|         | no row                           | TRIED                 | CONFIRMED        | CANCELLED         |
|---------|----------------------------------|-----------------------|------------------|-------------------|
| Try     | write TRIED, run, keep result    | replay the result     | replay           | LATE_TRY          |
| Confirm | NOT_TRIED                        | write CONFIRMED, run  | done already     | ALREADY_CANCELLED |
| Cancel  | write CANCELLED: empty cancel    | write CANCELLED, run  | ALREADY_CONFIRMED| done already      |

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
- *The same key with other content* (`BRANCH_CONFLICT`) is refused. Either two callers use the
  same gid by mistake, or a gid is reused after the coordinator's log was purged. Running
  either handler would corrupt the data of the other. Content means the action, and the
  digest of action, payload and content type that Try writes into its row. A call that
  does not know the content of the Try has no digest and is not compared.
"""

from enum import Enum, IntEnum
from typing import NamedTuple


class Operation(IntEnum):
    """The three calls, numbered as in the contract."""

    TRY = 1
    CONFIRM = 2
    CANCEL = 3


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
    BRANCH_CONFLICT = "this branch was tried with another action, payload or content type"


# `None` means that there is no row. One decision is not in this table: a Try whose claim was
# refused because of its expiry is EXPIRED (tcc.barrier.plans, `_decide`).
DECISIONS: dict[tuple[Operation, BarrierState | None], BarrierDecision] = {
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

# The state that a claim or a move writes.
WRITES = {
    Operation.TRY: BarrierState.TRIED,
    Operation.CONFIRM: BarrierState.CONFIRMED,
    Operation.CANCEL: BarrierState.CANCELLED,
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
