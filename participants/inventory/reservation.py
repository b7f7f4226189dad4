"""Tier 3: reservations. Their transition table, and the admission of a batch.

All decisions about stock are in this module. No I/O.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from participants.inventory.requests import ReserveStock
from participants.transitions import InvalidTransitionError, advance
from tcc import Rejected

SOLD_OUT = "SOLD_OUT"


class ReservationState(StrEnum):
    """The state of a reservation. The last two are final."""

    RESERVED = "RESERVED"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


class Verb(StrEnum):
    """The operations on a reservation."""

    RESERVE = "RESERVE"
    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"


# `None` means that there is no reservation. Any other transition is invalid.
TRANSITIONS: Mapping[tuple[ReservationState | None, Verb], ReservationState | None] = {
    (None, Verb.RESERVE): ReservationState.RESERVED,
    (ReservationState.RESERVED, Verb.CONFIRM): ReservationState.CONFIRMED,
    (ReservationState.RESERVED, Verb.CANCEL): ReservationState.CANCELLED,
}


class StockChange(NamedTuple):
    """The effect of a verb on one SKU's counts, as signed differences."""

    sku: str
    available: int
    reserved: int
    sold: int


# Per unit: a reservation moves stock from one count to another, so the sum is constant.
_PER_UNIT = {
    Verb.RESERVE: (-1, +1, 0),
    Verb.CONFIRM: (0, -1, +1),
    Verb.CANCEL: (+1, -1, 0),
}


def admit(requests: Sequence[ReserveStock], available: Mapping[str, int]) -> list[Rejected | None]:
    """Admit requests in order, as long as the stock suffices; return one result per request.

    A request that does not fit takes nothing, so a smaller one after it may fit.
    `available` holds the SKUs that exist.
    """
    left = dict(available)
    return [_admit_one(request, left) for request in requests]


def _admit_one(request: ReserveStock, left: dict[str, int]) -> Rejected | None:
    if request.sku not in left:
        return unknown_sku(request.sku)
    if request.quantity > left[request.sku]:
        return sold_out(request.sku, request.quantity)
    left[request.sku] -= request.quantity
    return None


def unknown_sku(sku: str) -> Rejected:
    return Rejected("UNKNOWN_SKU", f"there is no SKU {sku!r}")


@lru_cache(1024)
def sold_out(sku: str, quantity: int) -> Rejected:
    """Return a rejection, the same one for many. Do not raise it: it would keep the traceback."""
    return Rejected(SOLD_OUT, f"fewer than {quantity} of {sku!r} are available")


def stock_changes(verb: Verb, moved: Iterable[tuple[str, int]]) -> list[StockChange]:
    """Return (SKU, quantity) pairs as one change per SKU, so that a hot SKU is updated once."""
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
