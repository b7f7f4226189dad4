"""What becomes of a request, from its places in the queues of its keys. No I/O."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

# A branch: gid and branch_id.
Key = tuple[str, str]


class Place(NamedTuple):
    """One branch's place in the queue of one key."""

    branch: Key
    name: str
    # The place: it grows with each request for the key.
    token: int
    requested_at_ms: int
    # There is a conflicting request in front.
    is_blocked: bool
    # The first in this queue, and since when it is.
    first_gid: str
    first_since_ms: int


def is_free(places: Sequence[Place]) -> bool:
    """Return whether the branch waits for no other one and so holds all of its keys."""
    return not any(place.is_blocked for place in places)


def tokens(places: Sequence[Place]) -> dict[str, dict[str, int]]:
    """Return the result of a Try: the fencing token of each key."""
    return {"tokens": {place.name: place.token for place in places}}


def wait_left_s(places: Sequence[Place], wait_ms: int, now_ms: int) -> float:
    """Return how much longer the branch may wait, in seconds; 0 or less if it may not."""
    return (places[0].requested_at_ms + wait_ms - now_ms) / 1000


def refusal(places: Sequence[Place]) -> str:
    """Return who holds the first key that a branch waits for, and since when, as a text for people."""
    place = next(place for place in places if place.is_blocked)
    since = datetime.fromtimestamp(place.first_since_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return f"{place.name!r} is held by {place.first_gid} since {since}"
