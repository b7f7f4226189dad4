"""The requests that wait for a transaction, and the milestones they wait for."""

from abc import ABC, abstractmethod
from enum import IntEnum

from coordinator.core.errors import Refused
from coordinator.core.model import Transaction, TryState


class Milestone(IntEnum):
    """A point of a transaction that a request can wait for."""

    ACCEPTED = 1
    BRANCH_REGISTERED = 2
    BRANCH_TRIED = 3
    DECIDED = 4
    COMPLETED = 5


class Waiter(ABC):
    """One request that waits. It is answered exactly once, by `settle` or by `fail`.

    `is_command`: its effect is only in the owner's memory until the next write. If
    another coordinator takes the transaction over, such a request fails with
    OwnerChanged and has to be sent again. Any other request goes on waiting, and
    watches the row.
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
        """Return whether the caller has gone; such a request is removed."""


def is_reached(milestone: Milestone, tx: Transaction, branch_id: str = "") -> bool:
    """Return whether the durable part of `tx` has reached the milestone.

    A decision ends every wait for a branch: the result of its Try, or that it came
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
