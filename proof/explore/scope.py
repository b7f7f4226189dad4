"""What is explored: how large the system is, and what the adversary may do."""

from msgspec import Struct

from coordinator.core.model import BranchSpec


class Scope(Struct, frozen=True, kw_only=True):
    """A small system. Two coordinators drive it; any of them may die at any time, any number of times."""

    name: str
    # What each transaction consists of, or, where it is interactive, what may join it.
    branches: tuple[BranchSpec, ...]
    transactions: int = 1
    interactive: bool = False
    # The adversary's budget over the whole run; None: without end.
    faults_max: int | None = None
    # Branches whose participant may say no, by their position.
    may_reject: tuple[int, ...] = ()
    # Failed calls make a transaction stuck after so many; 0: failures are not counted.
    attempts_before_stuck: int = 0
    # Requests are repeated at any coordinator at any time, also with other content.
    contents: int = 1
    repeats: bool = False
    # An owner that lives may lose a transaction all the same: its lease ran out while
    # it was paused, or a client's command reached the other coordinator.
    live_owners_lose: bool = True
    # Answers of the log are lost, and writes repeated.
    lost_answers: bool = True
    # The answer to a claim is on its way for a while, like any other.
    slow_claims: bool = False
    # Answers to calls whose callers have gone still arrive, whatever is called by then.
    stale_answers: bool = False
    # A coordinator gives up what it owns while its last writes are on their way.
    releases: bool = False
    # Two calls that failed are due at different times.
    due_apart: bool = False
    # Participants' clocks pass the expiry at another time than the log's.
    clocks_apart: bool = False
    # Barrier rows are purged after the end.
    purges: bool = False
    # Units of stock at each participant; None: as many as are asked for.
    stock: int | None = None


def branch(name: str, **fields: object) -> BranchSpec:
    """A branch at a participant of its own."""
    return BranchSpec(branch_id=name, participant=name, action="reserve", **fields)  # type: ignore[arg-type] # named by the caller
