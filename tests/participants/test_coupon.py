"""Coupons through gRPC over PostgreSQL, and their transition table."""

import asyncio
from itertools import product

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.coupon.coupon import TRANSITIONS, Coupon, CouponState, Verb, check_held, freeze_all
from participants.coupon.store import issue
from participants.transitions import InvalidTransitionError, advance

from .conftest import CANCEL, CONFIRM, TRY, Caller, code_or_reason

COUPONS = "SELECT coupon_id, state, gid FROM coupon ORDER BY coupon_id"


async def issued(database: AsyncEngine, *coupon_ids: str) -> None:
    async with database.begin() as db:
        await issue(db, coupon_ids)


@pytest.mark.parametrize(("state", "verb"), list(product(CouponState, Verb)))
def test_every_cell_of_the_coupon_table(state: CouponState, verb: Verb) -> None:
    legal = {
        (CouponState.AVAILABLE, Verb.FREEZE): CouponState.FROZEN,
        (CouponState.FROZEN, Verb.USE): CouponState.USED,
        (CouponState.FROZEN, Verb.UNFREEZE): CouponState.AVAILABLE,
    }
    if (state, verb) in legal:
        assert advance(TRANSITIONS, state, verb, subject="c") is legal[state, verb]
    else:
        with pytest.raises(InvalidTransitionError):
            advance(TRANSITIONS, state, verb, subject="c")


def test_the_first_request_in_a_batch_gets_the_coupon() -> None:
    coupons = {
        "free": Coupon(coupon_id="free", state=CouponState.AVAILABLE, holder=None),
        "used": Coupon(coupon_id="used", state=CouponState.USED, holder=("g", "b")),
    }
    answers = freeze_all(["free", "free", "used", "none"], coupons)
    assert [answer and answer.reason for answer in answers] == [
        None,
        "COUPON_FROZEN",
        "COUPON_USED",
        "COUPON_NOT_FOUND",
    ]


@pytest.mark.parametrize("verb", [Verb.USE, Verb.UNFREEZE])
@pytest.mark.parametrize(
    "coupons",
    [
        {},
        {"c": Coupon(coupon_id="c", state=CouponState.AVAILABLE, holder=None)},
        {"c": Coupon(coupon_id="c", state=CouponState.FROZEN, holder=("other", "b"))},
        {"c": Coupon(coupon_id="c", state=CouponState.USED, holder=("g", "b"))},
    ],
)
def test_only_the_holder_of_a_frozen_coupon_ends_it(coupons: dict[str, Coupon], verb: Verb) -> None:
    with pytest.raises(InvalidTransitionError):
        check_held([(("g", "b"), "c")], coupons, verb)


async def test_freeze_use_and_unfreeze(coupon_caller: Caller, database: AsyncEngine) -> None:
    await issued(database, "a", "b")
    assert await coupon_caller.one(TRY, "g1", coupon_id="a") == "SUCCEEDED"
    assert await coupon_caller.one(TRY, "g2", coupon_id="b") == "SUCCEEDED"
    assert await coupon_caller.rows(COUPONS) == [("a", "FROZEN", "g1"), ("b", "FROZEN", "g2")]
    assert await coupon_caller.one(CONFIRM, "g1", coupon_id="a") == "SUCCEEDED"
    assert await coupon_caller.one(CANCEL, "g2", coupon_id="b") == "SUCCEEDED"
    assert await coupon_caller.rows(COUPONS) == [("a", "USED", "g1"), ("b", "AVAILABLE", None)]
    assert await coupon_caller.one(TRY, "g3", coupon_id="a") == "COUPON_USED"
    assert await coupon_caller.one(TRY, "g4", coupon_id="b") == "SUCCEEDED"
    assert await coupon_caller.one(TRY, "g5", coupon_id="b") == "COUPON_FROZEN"
    assert await coupon_caller.one(TRY, "g6", coupon_id="z") == "COUPON_NOT_FOUND"


async def test_a_coupon_that_many_want_at_once_is_frozen_once(
    coupon_caller: Caller, database: AsyncEngine
) -> None:
    coupon_ids = [f"c{n}" for n in range(20)]
    await issued(database, *coupon_ids)
    batches = [
        # Opposite orders: batches that share coupons must not deadlock.
        [(TRY, f"{n}-{c}", {"coupon_id": c}) for c in (coupon_ids if n % 2 else coupon_ids[::-1])]
        for n in range(12)
    ]
    outcomes = await asyncio.gather(*(coupon_caller.execute(batch) for batch in batches))
    endings = [code_or_reason(outcome) for batch in outcomes for outcome in batch]
    assert endings.count("SUCCEEDED") == 20
    assert set(endings) == {"SUCCEEDED", "COUPON_FROZEN"}


async def test_a_coupon_lost_by_its_holder_is_reported_and_fails_no_other(
    coupon_caller: Caller, database: AsyncEngine
) -> None:
    await issued(database, "a", "b")
    wishes = {"g1": {"coupon_id": "a"}, "g2": {"coupon_id": "b"}}
    await coupon_caller.execute([(TRY, gid, wish) for gid, wish in wishes.items()])
    await coupon_caller.change("UPDATE coupon SET gid = 'thief' WHERE coupon_id = 'a'")
    outcomes = await coupon_caller.execute([(CONFIRM, gid, wish) for gid, wish in wishes.items()])
    assert [code_or_reason(outcome) for outcome in outcomes] == ["HANDLER_ERROR", "SUCCEEDED"]
    assert await coupon_caller.rows(COUPONS) == [("a", "FROZEN", "thief"), ("b", "USED", "g2")]


async def test_a_coupon_is_issued_once(database: AsyncEngine) -> None:
    async with database.begin() as db:
        assert await issue(db, ["a", "b", "a"]) == 2
        assert await issue(db, ["b", "c"]) == 1
