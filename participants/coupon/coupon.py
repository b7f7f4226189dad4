"""The states of a coupon, its transition table and all decisions about it. No I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from participants.transitions import InvalidTransitionError, advance
from tcc import Rejected

Key = tuple[str, str]


class CouponState(StrEnum):
    """The state of a coupon. USED is final."""

    AVAILABLE = "AVAILABLE"
    FROZEN = "FROZEN"
    USED = "USED"


class Verb(StrEnum):
    """Try freezes, Confirm uses, Cancel unfreezes."""

    FREEZE = "FREEZE"
    USE = "USE"
    UNFREEZE = "UNFREEZE"


# Any other transition is invalid.
TRANSITIONS: Mapping[tuple[CouponState, Verb], CouponState] = {
    (CouponState.AVAILABLE, Verb.FREEZE): CouponState.FROZEN,
    (CouponState.FROZEN, Verb.USE): CouponState.USED,
    (CouponState.FROZEN, Verb.UNFREEZE): CouponState.AVAILABLE,
}

# The reason for rejecting a Try that the transition table does not allow.
_REFUSALS = {CouponState.FROZEN: "COUPON_FROZEN", CouponState.USED: "COUPON_USED"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Coupon:
    """A coupon and the branch that holds it, frozen or used."""

    coupon_id: str
    state: CouponState
    holder: Key | None


def freeze_all(wanted: Sequence[str], coupons: Mapping[str, Coupon]) -> list[Rejected | None]:
    """Assign each available coupon to the first request for it; return one result per request."""
    states = {coupon_id: coupon.state for coupon_id, coupon in coupons.items()}
    return [_freeze_one(coupon_id, states) for coupon_id in wanted]


def _freeze_one(coupon_id: str, states: dict[str, CouponState]) -> Rejected | None:
    state = states.get(coupon_id)
    if state is None:
        return Rejected("COUPON_NOT_FOUND", f"there is no coupon {coupon_id!r}")
    if state in _REFUSALS:
        return Rejected(_REFUSALS[state], f"coupon {coupon_id!r} is {state}")
    states[coupon_id] = TRANSITIONS[state, Verb.FREEZE]
    return None


def check_held(held: Iterable[tuple[Key, str]], coupons: Mapping[str, Coupon], verb: Verb) -> None:
    """Raise InvalidTransitionError unless each branch holds its coupon and the transition is valid."""
    for branch, coupon_id in held:
        coupon = coupons.get(coupon_id)
        if coupon is None:
            raise InvalidTransitionError(coupon_id, None, verb)
        if coupon.holder != branch:
            raise InvalidTransitionError(coupon_id, f"{coupon.state} held by {coupon.holder}", verb)
        advance(TRANSITIONS, coupon.state, verb, subject=coupon_id)
