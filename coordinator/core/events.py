"""The events of a transaction, and the effects that the core returns for them."""

from msgspec import Struct

from coordinator.core.model import BranchCall, BranchSpec, CallResult, Heuristic, Operation, RetryPolicy

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
    # With a check-back branch only: delivered after the decision CONFIRM.
    messages: tuple[BranchSpec, ...] = ()


class CallCompleted(Struct, frozen=True):
    """A call to a branch ended."""

    index: int
    operation: Operation
    answer: CallResult
    # The policy after a failure; `jitter` is uniform in [0, 1).
    policy: RetryPolicy = RetryPolicy()
    jitter: float = 0.0


class ConfirmRequested(Struct, frozen=True):
    """The initiator asks for CONFIRM. `messages` are delivered after the decision."""

    messages: tuple[BranchSpec, ...] = ()
    # Only read if there are messages.
    branches_max: int = 0
    transaction_bytes_max: int = 0


class CancelRequested(Struct, frozen=True, gc=False):
    """The initiator asks for CANCEL. A check-back branch is asked first."""

    detail: str = ""


class Woken(Struct, frozen=True, gc=False):
    """The transaction's `wake_at` has passed."""


class Resumed(Struct, frozen=True, gc=False):
    """The transaction was read from the log by its new owner. No call is under way."""

    # That has a branch to try, and that this coordinator is not configured with; empty: none.
    unknown_participant: str = ""


# Operator commands. They apply to a transaction as just read from the log, whichever coordinator
# drives it: writing it back in the next version takes it from them.


class OperatorHold(Struct, frozen=True, gc=False):
    """Do nothing more with the transaction until it is released."""


class OperatorRelease(Struct, frozen=True, gc=False):
    """Continue a held transaction."""


class OperatorRetry(Struct, frozen=True, gc=False):
    """Call every branch that is not done and is not to be called later, now."""


class OperatorCancel(Struct, frozen=True, gc=False):
    """Decide CANCEL. Ends a hold. A check-back branch is asked first."""

    detail: str


class OperatorResolve(Struct, frozen=True):
    """End a branch without a call. In TRYING: a check-back branch, whose outcome is the decision."""

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


class Accepted(Struct, frozen=True, gc=False):
    """It is durable that the transaction exists."""


class Decided(Struct, frozen=True, gc=False):
    """The decision is durable."""


class Completed(Struct, frozen=True, gc=False):
    """It is durable that every branch has carried the decision out. Memory may forget it."""


class Parked(Struct, frozen=True, gc=False):
    """Durable: it waits in the log, without an owner, for its next attempt. Memory may forget it."""


class BranchRegistered(Struct, frozen=True, gc=False):
    """It is durable that the branch exists."""

    index: int


class BranchTried(Struct, frozen=True, gc=False):
    """The branch's Try has an outcome."""

    index: int


class BecameStuck(Struct, frozen=True, gc=False):
    """The branch has failed more often than the policy allows. An operator should know."""

    index: int


class CheckFailed(Struct, frozen=True, gc=False):
    """The check-back branch was asked and did not answer. Nothing is decided."""

    index: int


# A `BranchCall`: call the branch's participant.
Effect = (
    Save
    | BranchCall
    | Accepted
    | Decided
    | Completed
    | Parked
    | BranchRegistered
    | BranchTried
    | BecameStuck
    | CheckFailed
)
