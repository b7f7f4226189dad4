"""The plan of a demo: everything in it comes from the seed, and there is something of everything."""

import tomllib
from collections import Counter
from dataclasses import replace

import pytest

from participants.demo.cluster import coordinator_config
from participants.demo.initiator import branches, purchase
from participants.demo.plan import (
    CHECKOUTS,
    PLENTY_SKUS,
    SCARCE_SKUS,
    SHOP,
    WORKER,
    InitiatorFault,
    make_plan,
)


def test_a_seed_makes_the_same_plan_again_and_another_seed_another():
    assert make_plan(orders=300, seed=7) == make_plan(orders=300, seed=7)
    assert make_plan(orders=300, seed=7).orders != make_plan(orders=300, seed=8).orders


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_has_every_manner_and_every_order_its_own_number(seed):
    plan = make_plan(orders=150, seed=seed)
    assert len({order.gid for order in plan.orders}) == 150
    assert {order.initiator_fault for order in plan.orders} == set(InitiatorFault)


@pytest.mark.parametrize("seed", range(20))
def test_scarce_stock_does_not_suffice_and_the_rest_does(seed):
    plan = make_plan(orders=150, seed=seed)
    wanted = Counter()
    for order in plan.orders:
        wanted[order.sku] += order.quantity
    assert all(0 < plan.stock[sku] < wanted[sku] for sku in SCARCE_SKUS)
    assert all(plan.stock[sku] >= wanted[sku] for sku in PLENTY_SKUS)
    assert wanted.keys() <= plan.stock.keys()


@pytest.mark.parametrize("seed", range(20))
def test_every_coupon_is_issued_once_and_some_are_wanted_twice(seed):
    plan = make_plan(orders=150, seed=seed)
    carried = Counter(order.coupon_id for order in plan.orders if order.coupon_id is not None)
    assert sorted(carried) == list(plan.coupons)
    assert max(carried.values()) > 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("orders", [1, 20, 150])
def test_a_worker_a_checkout_and_a_participant_are_killed(orders, seed):
    worker, checkout, participant = make_plan(orders=orders, seed=seed).kills
    assert worker.victim == WORKER
    assert checkout.victim in CHECKOUTS
    assert participant.victim in SHOP
    assert 1 <= worker.after_orders <= checkout.after_orders <= participant.after_orders <= orders
    assert orders < 20 or participant.after_orders < orders


def test_every_participant_and_every_checkout_is_killed_by_some_seed():
    victims = {kill.victim for seed in range(100) for kill in make_plan(orders=150, seed=seed).kills}
    assert victims == {WORKER, *CHECKOUTS, *SHOP}


def test_an_order_asks_for_its_coupon_only_if_it_carries_one():
    plan = make_plan(orders=100, seed=1)
    for order in plan.orders:
        asked = [branch.participant for branch in branches(order)]
        assert asked == ["inventory", *(["coupon"] if order.coupon_id else []), "order"]


def test_the_coordinators_file_is_toml_for_any_addresses():
    url = 'postgresql://u:"p\\w"@/db?host=/tmp/ü'
    tables = tomllib.loads(coordinator_config(url, {"coupon": "h:2", "inventory": "h:1"}))
    assert tables["log"] == {"url": url}
    assert tables["participants"] == {"coupon": {"target": "h:2"}, "inventory": {"target": "h:1"}}


def test_orders_of_a_plan_that_ships_are_the_same_orders_with_an_event():
    plain, shipping = make_plan(orders=50, seed=3), make_plan(orders=50, seed=3, ships=True)
    assert (plain.ships, shipping.ships) == (False, True)
    assert shipping.kills[: len(plain.kills)] == plain.kills
    assert [kill.victim for kill in shipping.kills[len(plain.kills) :]] == ["shipping", "redis"]
    for order, shipped in zip(plain.orders, shipping.orders, strict=True):
        assert replace(shipped, ships=False) == order
        *others, event = purchase(shipped)
        assert [branch.participant for branch in others] == [b.participant for b in purchase(order)]
        assert (event.participant, event.kind, event.payload["data"]["order_id"]) == (
            "events",
            "message",
            order.gid,
        )
