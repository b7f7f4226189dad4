"""Orders through gRPC over PostgreSQL, and their transition table."""

import asyncio
import random
from itertools import product
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.order.order import TRANSITIONS, OrderState, Verb, opened, unique
from participants.order.slowness import Slowness
from participants.transitions import InvalidTransitionError, advance

from .conftest import CANCEL, CONFIRM, TRY, Caller, code_or_reason


def order(order_id: str) -> dict[str, Any]:
    return {"order_id": order_id, "customer_id": "ann", "sku": "A", "quantity": 1}


@pytest.mark.parametrize(("state", "verb"), list(product([None, *OrderState], Verb)))
def test_every_cell_of_the_order_table(state: OrderState | None, verb: Verb) -> None:
    legal = {
        (None, Verb.OPEN): OrderState.PENDING,
        (OrderState.PENDING, Verb.CONFIRM): OrderState.CONFIRMED,
        (OrderState.PENDING, Verb.CANCEL): OrderState.CANCELLED,
    }
    if (state, verb) in legal:
        assert advance(TRANSITIONS, state, verb, subject="o") is legal[state, verb]
    else:
        with pytest.raises(InvalidTransitionError):
            advance(TRANSITIONS, state, verb, subject="o")


def test_of_one_number_twice_in_a_batch_the_first_is_opened() -> None:
    assert unique(["a", "b", "a", "c", "b"]) == [0, 1, 3]
    answers = opened(["a", "b", "a"], {0})
    assert [answer and answer.reason for answer in answers] == [None, "ORDER_EXISTS", "ORDER_EXISTS"]


async def test_an_order_is_opened_then_confirmed_or_cancelled(order_caller: Caller) -> None:
    assert await order_caller.one(TRY, "g1", **order("o1")) == "SUCCEEDED"
    assert await order_caller.one(TRY, "g2", **order("o2"), coupon_id="c") == "SUCCEEDED"
    assert await order_caller.rows("SELECT DISTINCT state FROM orders") == [("PENDING",)]
    assert await order_caller.one(CONFIRM, "g1", **order("o1")) == "SUCCEEDED"
    assert await order_caller.one(CANCEL, "g2", **order("o2"), coupon_id="c") == "SUCCEEDED"
    assert await order_caller.rows("SELECT order_id, state, coupon_id FROM orders ORDER BY 1") == [
        ("o1", "CONFIRMED", None),
        ("o2", "CANCELLED", "c"),
    ]


async def test_an_order_number_is_never_used_twice(order_caller: Caller) -> None:
    same = [(TRY, f"g{n}", order("o")) for n in range(5)]
    outcomes = await order_caller.execute(same)
    assert [code_or_reason(outcome) for outcome in outcomes] == ["SUCCEEDED"] + ["ORDER_EXISTS"] * 4
    assert await order_caller.one(CANCEL, "g0", **order("o")) == "SUCCEEDED"
    assert await order_caller.one(TRY, "g9", **order("o")) == "ORDER_EXISTS"


async def test_an_invalid_transition_is_refused_and_fails_no_other(
    order_caller: Caller, database: AsyncEngine
) -> None:
    await order_caller.execute([(TRY, gid, order(gid)) for gid in ("g1", "g2")])
    await order_caller.change("UPDATE orders SET state = 'CONFIRMED' WHERE gid = 'g1'")
    broken, sound = await order_caller.execute([(CANCEL, gid, order(gid)) for gid in ("g1", "g2")])
    assert "CANCEL is not allowed in state CONFIRMED" in broken.message
    assert code_or_reason(sound) == "SUCCEEDED"
    assert await order_caller.rows("SELECT gid, state FROM orders ORDER BY gid") == [
        ("g1", "CONFIRMED"),
        ("g2", "CANCELLED"),
    ]


async def test_slowness_holds_back_its_fraction_of_participant_calls_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    async def continuation(_: object) -> str:
        return "the handler"

    monkeypatch.setattr(asyncio, "sleep", sleep)
    slowness = Slowness(fraction=0.25, delay_s=0.3, random_source=random.Random(7))

    class Details:
        method = "/tcc.participant.v1.ParticipantService/ExecuteBranches"

    for _ in range(1_000):
        assert await slowness.intercept_service(continuation, Details()) == "the handler"
    assert set(slept) == {0.3}
    assert 200 < len(slept) < 300
    slept.clear()
    Details.method = "/grpc.health.v1.Health/Check"
    for _ in range(100):
        await slowness.intercept_service(continuation, Details())
    assert not slept
