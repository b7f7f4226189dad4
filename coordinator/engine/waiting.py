"""Who waits for what of a transaction."""

from abc import ABC, abstractmethod
from enum import IntEnum

from coordinator.core.errors import Refused
from coordinator.core.model import Transaction, TryState


class Milestone(IntEnum):
    """What a request can wait for."""

    ACCEPTED = 1
    BRANCH_REGISTERED = 2
    BRANCH_TRIED = 3
    DECIDED = 4
    COMPLETED = 5


class Waiter(ABC):
    """One request that waits. It is answered exactly once, by `settle` or by `fail`.

    `is_command`: it asked for something that lives in the owner's memory until
    the next write. When the transaction is lost to another owner, such a request
    fails with OwnerChanged and has to be made again; any other can go on waiting
    by watching the row.
    """

    __slots__ = ("branch_id", "is_command", "milestone")

    def __init__(self, milestone: Milestone, *, branch_id: str = "", is_command: bool = False) -> None:
        self.milestone = milestone
        self.branch_id = branch_id
        self.is_command = is_command

    @abstractmethod
    def settle(self, tx: Transaction) -> None:
        """Complete the request: the transaction has reached the milestone."""

    @abstractmethod
    def fail(self, error: Refused) -> None:
        """Fail the request: the milestone will not be reached, or cannot be known here."""

    @abstractmethod
    def is_cancelled(self) -> bool:
        """Whether nobody listens any more; such a request is forgotten."""


def is_reached(milestone: Milestone, tx: Transaction, branch_id: str = "") -> bool:
    """Whether the durable part of `tx` holds what a request waits for.

    A decision ends every wait for a branch: what its Try said, or that it came
    too late, is known then.
    """
    state = tx.saved_state
    if state is None:
        return False
    match milestone:
        case Milestone.ACCEPTED:
            return True
        case Milestone.DECIDED:
            return state.decided
        case Milestone.COMPLETED:
            return state.ended
        case Milestone.BRANCH_REGISTERED:
            return state.decided or any(
                branch.spec.branch_id == branch_id for branch in tx.branches[: tx.saved_branches]
            )
        case Milestone.BRANCH_TRIED:
            return state.decided or any(
                branch.spec.branch_id == branch_id and branch.tried is TryState.SUCCEEDED
                for branch in tx.branches
            )
