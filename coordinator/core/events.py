"""What can happen to a transaction, and what the core wants done about it."""

from msgspec import Struct

from coordinator.core.model import BranchSpec, CallResult, Heuristic, Operation, RetryPolicy

# --- events ---------------------------------------------------------------


class Begun(Struct, frozen=True, gc=False):
    """A new transaction was accepted into memory. Nothing of it is durable."""


class Saved(Struct, frozen=True, gc=False):
    """The write that was in flight is durable."""


class BranchAdded(Struct, frozen=True):
    """The initiator adds a branch to an interactive transaction."""

    spec: BranchSpec
    branches_max: int
    # What the payloads of all branches may add up to.
    transaction_bytes_max: int


class CallCompleted(Struct, frozen=True):
    """A call to a branch ended."""

    index: int
    operation: Operation
    answer: CallResult
    # How to go on after a failure; `jitter` is uniform in [0, 1).
    policy: RetryPolicy = RetryPolicy()
    jitter: float = 0.0


class ConfirmRequested(Struct, frozen=True, gc=False):
    """The initiator asks for CONFIRM."""


class CancelRequested(Struct, frozen=True, gc=False):
    """The initiator asks for CANCEL."""

    detail: str = ""


class Woken(Struct, frozen=True, gc=False):
    """The transaction's `wake_at` has passed."""


class Resumed(Struct, frozen=True, gc=False):
    """The transaction was read from the log by its new owner. No call is under way."""


# Orders of an operator. They apply to a transaction as just read from the log, whoever drives
# it: writing it back in the next version takes it from them.


class OperatorHold(Struct, frozen=True, gc=False):
    """Nothing more is to be done with the transaction until it is released."""


class OperatorRelease(Struct, frozen=True, gc=False):
    """A held transaction is to go on."""


class OperatorRetry(Struct, frozen=True, gc=False):
    """Every branch that is not done is to be called now."""


class OperatorCancel(Struct, frozen=True, gc=False):
    """CANCEL is to be decided. Lifts a hold."""

    detail: str


class OperatorResolve(Struct, frozen=True):
    """A branch has ended by the operator's word."""

    branch_id: str
    outcome: Heuristic
    reason: str


OperatorCommand = OperatorHold | OperatorRelease | OperatorRetry | OperatorCancel | OperatorResolve
Event = (
    Begun
    | Saved
    | BranchAdded
    | CallCompleted
    | ConfirmRequested
    | CancelRequested
    | Woken
    | Resumed
    | OperatorCommand
)

# --- effects --------------------------------------------------------------


class Save(Struct, frozen=True, gc=False):
    """Write the transaction, as returned beside this effect, to the log."""


class Call(Struct, frozen=True, gc=False):
    """Call a branch's participant."""

    index: int
    operation: Operation


class Accepted(Struct, frozen=True, gc=False):
    """It is durable that the transaction exists."""


class Decided(Struct, frozen=True, gc=False):
    """The decision is durable."""


class Completed(Struct, frozen=True, gc=False):
    """It is durable that every branch has carried the decision out. Memory may forget it."""


class Parked(Struct, frozen=True, gc=False):
    """It waits in the log, owned by nobody, for its next attempt. Memory may forget it."""


class BranchRegistered(Struct, frozen=True, gc=False):
    """It is durable that the branch exists."""

    index: int


class BranchTried(Struct, frozen=True, gc=False):
    """The branch's Try has an outcome."""

    index: int


class BecameStuck(Struct, frozen=True, gc=False):
    """The branch has failed more often than the policy allows. An operator should know."""

    index: int


Effect = Save | Call | Accepted | Decided | Completed | Parked | BranchRegistered | BranchTried | BecameStuck
