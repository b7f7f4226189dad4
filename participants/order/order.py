"""The states of an order, its transition table and all decisions about it. No I/O."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum

from participants.transitions import InvalidTransitionError, advance
from tcc import Rejected

Key = tuple[str, str]


class OrderState(StrEnum):
    """The state of an order. The last two are final."""

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


class Verb(StrEnum):
    """Try opens, Confirm confirms, Cancel cancels."""

    OPEN = "OPEN"
    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"


# `None` means that there is no order. Any other transition is invalid.
TRANSITIONS: Mapping[tuple[OrderState | None, Verb], OrderState | None] = {
    (None, Verb.OPEN): OrderState.PENDING,
    (OrderState.PENDING, Verb.CONFIRM): OrderState.CONFIRMED,
    (OrderState.PENDING, Verb.CANCEL): OrderState.CANCELLED,
}


def unique(order_ids: Sequence[str]) -> list[int]:
    """Return the positions of the first request for each order number."""
    first = {order_id: position for position, order_id in reversed(list(enumerate(order_ids)))}
    return sorted(first.values())


def opened(order_ids: Sequence[str], new: Collection[int]) -> list[Rejected | None]:
    """Return one result per request; `new` holds the positions of those that created an order."""
    return [
        None if position in new else Rejected("ORDER_EXISTS", f"there is an order {order_id!r} already")
        for position, order_id in enumerate(order_ids)
    ]


def invalid_transition(keys: Iterable[Key], states: Mapping[Key, str], verb: Verb) -> InvalidTransitionError:
    """Return the reason why some of these orders did not allow the verb."""
    try:
        for key in keys:
            state = OrderState(states[key]) if key in states else None
            advance(TRANSITIONS, state, verb, subject=key)
    except InvalidTransitionError as error:
        return error
    raise AssertionError(f"every order allows {verb}, and yet one did not move")
