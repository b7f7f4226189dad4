"""The port for the outcomes of transactions, as the log knows them, and for the receivers of them."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from coordinator.core.model import CancelReason, TransactionState


class OutcomeKind(Enum):
    """What there is to publish of a transaction."""

    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    # It has not ended: phase two fails again and again.
    STUCK = "stuck"


class Outcome(Struct, frozen=True, kw_only=True):
    """A transaction without payloads and results. Times are seconds since the Unix epoch."""

    gid: str
    state: TransactionState
    stuck: bool
    initiator: str
    tenant: str
    # A JSON object.
    labels: str
    cancel_reason: CancelReason
    cancel_branch_id: str
    cancel_detail: str
    created_at: float
    decided_at: float | None
    # None: it has not ended.
    ended_at: float | None

    @property
    def kind(self) -> OutcomeKind | None:
        """What is to be published; None: nothing yet."""
        if self.state.ended:
            is_confirmed = self.state is TransactionState.CONFIRMED
            return OutcomeKind.CONFIRMED if is_confirmed else OutcomeKind.CANCELLED
        return OutcomeKind.STUCK if self.stuck else None


class OutcomePosition(Struct, frozen=True, kw_only=True, order=True):
    """A place in the order of creation. What comes next was created later, or then with a greater gid."""

    created_at: float
    gid: str = ""


class OutcomeReader(Struct, frozen=True, kw_only=True):
    """Who reads the outcomes for a target, and up to where they were published."""

    position: OutcomePosition
    # The log's time.
    now: float
    # It was another one before.
    is_new: bool


class OutcomeLog(Protocol):
    """A cell of the log, for one coordinator that publishes outcomes. Each target has its own position.

    Every method raises `core.errors.LogUnavailable` or `core.errors.LogRejected`. Calls may be repeated.
    """

    async def outcome_reader(self, target: str) -> OutcomeReader | None:
        """Become the reader for a target, if no living coordinator is. None: another one is.

        The first position of a target is a minute ago.
        """
        ...

    async def outcome_position_set(self, target: str, position: OutcomePosition) -> bool:
        """Write the position. False: another coordinator reads by now, and nothing was written."""
        ...

    async def outcome_page(self, after: OutcomePosition, before: float, limit: int) -> list[Outcome]:
        """Return transactions created after a position and before a time, in order, ended or not."""
        ...

    async def outcome_wait(self, target: str, gids: Sequence[str]) -> None:
        """Remember transactions that have not ended."""
        ...

    async def outcome_waiting(
        self, target: str, after: str, limit: int
    ) -> tuple[list[Outcome], list[str], str]:
        """Look at some that had not ended, in the order of their gids after this one.

        Return those that have an outcome that was not published yet, the gids of those that no longer
        exist, and the last gid that was checked; empty: there are no further ones.
        """
        ...

    async def outcome_published(self, target: str, *, ended: Sequence[str], stuck: Sequence[str]) -> None:
        """Forget those that have ended, and remember which others were published as stuck."""
        ...


class OutcomeTarget(Protocol):
    """A receiver of outcomes."""

    name: str

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        """Publish outcomes, each of which has a kind. All, or some of them may be published twice.

        Raises:
            PublishError: at least one was perhaps not published.
        """
        ...


class PublishError(Exception):
    """A target did not accept outcomes. The text has no secrets."""
