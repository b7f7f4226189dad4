"""What becomes of a request, from its places in the queues of its keys. No I/O."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

# A branch: gid and branch_id.
Key = tuple[str, str]


class Place(NamedTuple):
    """One branch's place in the queue of one key.

    The token is the place: it grows with each request for the key. `ahead` is the token of the first
    request in front that this one must wait for, or None.
    """

    branch: Key
    name: str
    token: int
    requested_at_ms: int
    ahead: int | None


class First(NamedTuple):
    """The first request in the queue of a key: its holder, unless it waits for another key."""

    gid: str
    acquired_at_ms: int | None


def is_free(places: Sequence[Place]) -> bool:
    """Return whether the branch waits for no other one and so holds all of its keys."""
    return all(place.ahead is None for place in places)


def tokens(places: Sequence[Place]) -> dict[str, dict[str, int]]:
    """Return the result of a Try: the fencing token of each key."""
    return {"tokens": {place.name: place.token for place in places}}


def wait_left_s(places: Sequence[Place], wait_ms: int, now_ms: int) -> float:
    """Return how much longer the branch may wait, in seconds; 0 or less if it may not."""
    return (places[0].requested_at_ms + wait_ms - now_ms) / 1000


def refusal(name: str, first: First | None) -> str:
    """Return who holds a key and since when, as a text for people."""
    if first is None:  # it was released just now
        return f"{name!r} was held"
    if first.acquired_at_ms is None:
        return f"{name!r} was asked for earlier by {first.gid}, which waits for another key"
    since = datetime.fromtimestamp(first.acquired_at_ms / 1000, UTC)
    return f"{name!r} is held by {first.gid} since {since.isoformat(timespec='milliseconds')}"
