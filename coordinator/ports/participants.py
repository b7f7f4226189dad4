"""The port for participants: branch calls, and the rows of their barriers."""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from coordinator.core.model import BranchCall, CallResult
from coordinator.core.reconciliation import BarrierRow, BarrierState

# Each call with its result.
CallResults = list[tuple[BranchCall, CallResult]]
OnResults = Callable[[CallResults], None]


class Participants(Protocol):
    """The client of the participants."""

    def execute(self, participant: str, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        """Send a batch of calls; report their results as they arrive, the first ones perhaps at once.

        Never raises for what a participant or the network does: each call gets
        exactly one result, FAILED where nothing better is known.
        `on_results` raises nothing.
        """
        ...


class StreamLoad(Struct, frozen=True, kw_only=True):
    """How many streams are open, and how many calls or transactions on them have no answer."""

    streams: int
    in_flight: int


class BarrierPage(Struct, frozen=True, kw_only=True):
    """Rows of a participant's barrier, and where the next page starts; empty: there is none."""

    rows: list[BarrierRow]
    next_page_token: str = ""


class BarrierQuery(Struct, frozen=True, kw_only=True):
    """The filter of a listing of rows, by the participant's clock.

    Those of these states, whose last change and whose transaction's expiry lie at least
    `min_age_s` back, and the expiry at most `max_age_s` (0: however far).
    """

    states: tuple[BarrierState, ...] = (BarrierState.TRIED,)
    min_age_s: float = 0.0
    max_age_s: float = 0.0
    page_size: int = 500


class BarrierReader(Participants, Protocol):
    """Reads the barrier rows of participants.

    Raises:
        core.errors.ReconciliationUnsupported: the participant has no way to say.
        core.errors.ParticipantUnreachable: it does not answer, or not what it should.
        core.errors.UnknownParticipant
    """

    async def list_branches(self, participant: str, asked: BarrierQuery, page_token: str) -> BarrierPage:
        """Return a page of rows; "" asks for the first. It may be empty without being the last."""
        ...

    async def find_branches(self, participant: str, keys: Sequence[tuple[str, str]]) -> list[BarrierRow]:
        """Return the rows with these (gid, branch_id); those that do not exist are left out."""
        ...
