"""Time, as far as anybody can tell it apart: before or after the expiry, nothing, something or all due.

A transaction in memory or in the log is brought into one form, so that two that the
code cannot tell apart are one: `settled_in_time` shifts what is due and wipes what
nothing reads.
"""

from msgspec.structs import replace

from coordinator.core.model import NOW, Branch, CancelReason, RetryPolicy, Transaction, TransactionState

# Nothing that failed is due yet; the sooner of two is; both are; the expiry has passed.
EARLY = 100.0
SOON = 110.0
LATER = 120.0
EXPIRES_AT = 1_000.0
EXPIRED = 2_000.0

POLICY_SOON = RetryPolicy(delay_first_s=10.0, delay_max_s=10.0)
POLICY_LATER = RetryPolicy(delay_first_s=20.0, delay_max_s=20.0)
# Full jitter times this is the whole delay.
JITTER = 1.0


def settled_in_time(tx: Transaction, *, attempts_max: int) -> Transaction:
    """`tx` with the past forgotten. `attempts_max`: how many failures make a difference."""
    if tx.stuck:
        attempts_max = 0
    branches = tuple(_branch(branch, tx.state, attempts_max) for branch in tx.branches)
    due = [branch.next_attempt_at for branch in branches if branch.next_attempt_at != NOW]
    return replace(
        tx,
        branches=branches,
        version=min(tx.version, 1),
        cancel_reason=CancelReason.REQUESTED if tx.cancel_reason else CancelReason.NONE,
        cancel_branch_id="",
        cancel_detail="",
        cancel_message="",
        # Released rows are due at once, whatever their branches are.
        next_attempt_at=min(due, default=EARLY) if tx.next_attempt_at else 0.0,
        waiting_on="",
    )


def _branch(branch: Branch, state: TransactionState, attempts_max: int) -> Branch:
    counts = state is not TransactionState.TRYING or branch.spec.check_back
    attempts = min(branch.attempts, attempts_max) if counts else 0
    return replace(branch, attempts=attempts, next_attempt_at=_rebased(branch.next_attempt_at), last_error="")


def _rebased(next_attempt_at: float) -> float:
    return next_attempt_at - (EXPIRED - EARLY) if next_attempt_at > EXPIRED else next_attempt_at
