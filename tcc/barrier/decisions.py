"""The barrier: what makes Try, Confirm and Cancel safe to repeat, reorder and race.

One row per `(gid, branch_id)` in the participant's own database, written in the
same local transaction as the business change. This table is the law; `DECISIONS` below
is the same table, and nothing else in the SDK decides:

|         | no row                           | TRIED                 | CONFIRMED        | CANCELLED         |
|---------|----------------------------------|-----------------------|------------------|-------------------|
| Try     | write TRIED, run, keep result    | replay the result     | replay           | LATE_TRY          |
| Confirm | NOT_TRIED                        | write CONFIRMED, run  | done already     | ALREADY_CANCELLED |
| Cancel  | write CANCELLED: empty cancel    | write CANCELLED, run  | ALREADY_CONFIRMED| done already      |

Why each odd cell is as it is:

- *Empty cancel.* The coordinator cancels every branch whose Try it is not sure
  of. A Try that never arrived has nothing to give back, so the Cancel succeeds,
  and its row stays as a *tombstone*.
- *Late Try.* The Try that the network held back finds the tombstone and is
  refused: nobody would ever confirm or cancel what it reserves. Tombstones are
  purged long after the transaction's expiry; a Try later still is refused by
  its expiry (`EXPIRED`), judged by the database's clock where a row would be
  made. A branch that is known already is answered from its row instead.
- *Confirm without a row* is reported, never a silent success. It is not called
  permanent: the row may be restored, or the initiator's own Try may still be in
  flight, and a decision to confirm is repeated for ever anyway.
- *The same key with other content* (`BRANCH_CONFLICT`) is refused: two callers share a
  gid by mistake, or a gid is used again after the coordinator's log was purged, and
  running either handler would corrupt the other's. Content is the action, and the digest
  of action, payload and content type that Try writes into its row. A call that does not
  know what Try was given has no digest and is not compared.
"""

from enum import Enum, IntEnum
from typing import NamedTuple


class Operation(IntEnum):
    """The three calls, numbered as in the contract."""

    TRY = 1
    CONFIRM = 2
    CANCEL = 3


class BarrierState(IntEnum):
    """How a barrier row stands, numbered as in the table."""

    TRIED = 1
    CONFIRMED = 2
    CANCELLED = 3


class BarrierDecision(Enum):
    """What a cell of the law says."""

    RUN = "run the handler"
    EMPTY_CANCEL = "done: there was nothing to cancel"
    REPLAY = "answer what Try answered"
    DONE = "done by an earlier delivery"
    LATE_TRY = "this branch was cancelled before its Try arrived"
    EXPIRED = "the transaction expired before this Try arrived"
    NOT_TRIED = "no Try of this branch is known here"
    ALREADY_CONFIRMED = "this branch is confirmed and cannot be cancelled"
    ALREADY_CANCELLED = "this branch is cancelled and cannot be confirmed"
    BRANCH_CONFLICT = "this branch was tried with another action, payload or content type"


# `None` is the absent row. A Try whose row is absent because its expiry refused
# the claim is EXPIRED; `_decide` is the only other place that knows.
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
    """The answer to one call; its fields are those of the contract's CallResult."""

    code: OutcomeCode
    reason: str = ""
    message: str = ""
    result: bytes = b""
    content_type: str = ""
    permanent: bool = False


SUCCEEDED = CallResult(OutcomeCode.SUCCEEDED)
