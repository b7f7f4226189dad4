"""Tier 3: reservations. Their legal transitions, and who of a batch is admitted.

Everything that decides about stock lives here, and none of it does I/O.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from participants.inventory.requests import ReserveStock
from participants.transitions import InvalidTransitionError, advance
from tcc import Rejected


class ReservationState(StrEnum):
    """How a reservation stands. The last two are final."""

    RESERVED = "RESERVED"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


class Verb(StrEnum):
    """What can be done to a reservation."""

    RESERVE = "RESERVE"
    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"


# `None` is the absent reservation. What is not here is illegal.
TRANSITIONS: Mapping[tuple[ReservationState | None, Verb], ReservationState | None] = {
    (None, Verb.RESERVE): ReservationState.RESERVED,
    (ReservationState.RESERVED, Verb.CONFIRM): ReservationState.CONFIRMED,
    (ReservationState.RESERVED, Verb.CANCEL): ReservationState.CANCELLED,
}


class StockChange(NamedTuple):
    """What a verb does to one SKU's counts, as signed differences."""

    sku: str
    available: int
    reserved: int
    sold: int


# Per unit: a reservation moves stock from one count to another and makes or loses none.
_PER_UNIT = {
    Verb.RESERVE: (-1, +1, 0),
    Verb.CONFIRM: (0, -1, +1),
    Verb.CANCEL: (+1, -1, 0),
}


def admit(requests: Sequence[ReserveStock], available: Mapping[str, int]) -> list[Rejected | None]:
    """Who gets stock: in the order given, each that still fits. One answer per request.

    A request that does not fit takes nothing, so a smaller one behind it may.
    `available` holds the SKUs that exist.
    """
    left = dict(available)
    return [_admit_one(request, left) for request in requests]


def _admit_one(request: ReserveStock, left: dict[str, int]) -> Rejected | None:
    if request.sku not in left:
        return Rejected("UNKNOWN_SKU", f"there is no SKU {request.sku!r}")
    if request.quantity > left[request.sku]:
        return sold_out(request)
    left[request.sku] -= request.quantity
    return None


def sold_out(request: ReserveStock) -> Rejected:
    return Rejected("SOLD_OUT", f"fewer than {request.quantity} of {request.sku!r} are available")


def stock_changes(verb: Verb, moved: Iterable[tuple[str, int]]) -> list[StockChange]:
    """(SKU, quantity) pairs as one change per SKU: a hot SKU is one row, however many want it."""
    units: Counter[str] = Counter()
    for sku, quantity in moved:
        units[sku] += quantity
    available, reserved, sold = _PER_UNIT[verb]
    return [
        StockChange(sku, available * total, reserved * total, sold * total)
        for sku, total in sorted(units.items())
    ]


def invalid_transition(
    keys: Iterable[tuple[str, str]], states: Mapping[tuple[str, str], str], verb: Verb
) -> InvalidTransitionError:
    """Return the reason why some of these reservations did not allow the verb."""
    try:
        for key in keys:
            state = ReservationState(states[key]) if key in states else None
            advance(TRANSITIONS, state, verb, subject=key)
    except InvalidTransitionError as error:
        return error
    raise AssertionError(f"every reservation allows {verb}, and yet one did not move")
