"""The plan of a demo: the orders, the faults of their initiators, and the kills.

The plan is derived from one seed, so it can be repeated. The result is not determined by
it: which of two orders gets the last item depends on timing.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

PARTICIPANTS = ("inventory", "coupon", "order")
# With a saga and a message.
SHOP = (*PARTICIPANTS, "payment", "mail")

SCARCE_SKUS = ("flash-phone", "flash-watch", "flash-shoes")
PLENTY_SKUS = tuple(f"sku-{number:02}" for number in range(40))
QUANTITY_MAX = 3

# The share of orders for scarce SKUs, and the stock as a share of their demand.
_SCARCE_FRACTION = 0.25
_SCARCE_STOCK = 0.5
# The share of orders with a coupon, and the share of these whose coupon another order has too.
_COUPON_FRACTION = 0.4
_COUPON_AGAIN_FRACTION = 0.15
# The processes of the order service that place orders.
CHECKOUTS = ("checkout-1", "checkout-2")
WORKER = "coordinator worker"
# The times of the kills, in fractions of the orders.
_WORKER_KILL = (0.15, 0.25)
_CHECKOUT_KILL = (0.30, 0.40)
_PARTICIPANT_KILL = (0.55, 0.65)
# Only where orders are shipped.
REDIS, EVENTS, SHIPPING = "redis", "events", "shipping"
_SHIPPING_KILL = (0.20, 0.50)
_REDIS_KILL = (0.70, 0.80)


class InitiatorFault(StrEnum):
    """The behaviour of an initiator."""

    # One call; the order is a branch like the others.
    ONE_SHOT = "ONE_SHOT"
    # One call whose response is lost, then the same call through another connection.
    LOST_ANSWER = "LOST_ANSWER"
    # Step by step; the order service commits its own order first, and confirms.
    LOCAL_FIRST = "LOCAL_FIRST"
    # The same, but the order service rolls its order back.
    CHANGES_MIND = "CHANGES_MIND"
    # The same, but the initiator vanishes after a step; the last one is the local commit.
    VANISHES = "VANISHES"


_INITIATOR_FAULTS: Mapping[InitiatorFault, float] = {
    InitiatorFault.ONE_SHOT: 0.72,
    InitiatorFault.LOST_ANSWER: 0.08,
    InitiatorFault.LOCAL_FIRST: 0.10,
    InitiatorFault.CHANGES_MIND: 0.04,
    InitiatorFault.VANISHES: 0.06,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedOrder:
    """One order; its number is the gid of its transaction."""

    gid: str
    customer_id: str
    sku: str
    quantity: int
    coupon_id: str | None
    initiator_fault: InitiatorFault
    # In [0, 1): how soon a response is lost, or after how many steps the initiator vanishes.
    draw: float
    # True if an event tells the shipping service when the order is confirmed.
    ships: bool = False
    # Of a transaction that the order service decides: then it is asked.
    local_expiry_s: float = 5.0

    @property
    def is_local_first(self) -> bool:
        """True if it is decided by the order service's own local transaction."""
        return self.initiator_fault not in (InitiatorFault.ONE_SHOT, InitiatorFault.LOST_ANSWER)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedKill:
    """A kill after a number of orders: of a coordinator worker, or of a process by its name."""

    after_orders: int
    victim: str
    # In [0, 1): which worker.
    draw: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole demo."""

    seed: int
    orders: tuple[PlannedOrder, ...]
    # SKU to its stock.
    stock: Mapping[str, int]
    coupons: tuple[str, ...]
    kills: tuple[PlannedKill, ...]

    @property
    def ships(self) -> bool:
        return any(order.ships for order in self.orders)


def make_plan(*, orders: int, seed: int, ships: bool = False) -> Plan:
    """Return the plan of a seed. `ships`: confirmed orders are shipped."""
    chance = random.Random(seed)
    planned = tuple(replace(order, ships=ships) for order in _plan_orders(orders, chance))
    return Plan(
        seed=seed,
        orders=planned,
        stock=_stock(planned),
        coupons=tuple(sorted({order.coupon_id for order in planned if order.coupon_id is not None})),
        kills=_plan_kills(orders, chance) + (_plan_shipping_kills(orders, chance) if ships else ()),
    )


def _plan_orders(count: int, chance: random.Random) -> Iterator[PlannedOrder]:
    coupons: list[str] = []
    for number in range(count):
        coupon_id = _choose_coupon(number, coupons, chance)
        if coupon_id is not None:
            coupons.append(coupon_id)
        yield PlannedOrder(
            gid=f"order-{number:06}",
            customer_id=f"customer-{chance.randrange(count)}",
            sku=chance.choice(SCARCE_SKUS if chance.random() < _SCARCE_FRACTION else PLENTY_SKUS),
            quantity=chance.randint(1, QUANTITY_MAX),
            coupon_id=coupon_id,
            initiator_fault=chance.choices(list(_INITIATOR_FAULTS), list(_INITIATOR_FAULTS.values()))[0],
            draw=chance.random(),
        )


def _choose_coupon(number: int, carried: list[str], chance: random.Random) -> str | None:
    """Return None, a new coupon, or one of an earlier order: the latest, or any."""
    if chance.random() >= _COUPON_FRACTION:
        return None
    if carried and chance.random() < _COUPON_AGAIN_FRACTION:
        return chance.choice([carried[-1], chance.choice(carried)])
    return f"coupon-{number:06}"


def _stock(orders: tuple[PlannedOrder, ...]) -> dict[str, int]:
    """Return the stock: enough of every SKU, but less than the demand of the scarce ones."""
    wanted = dict.fromkeys(SCARCE_SKUS, 0)
    for order in orders:
        if order.sku in wanted:
            wanted[order.sku] += order.quantity
    scarce = {sku: max(1, int(quantity * _SCARCE_STOCK)) for sku, quantity in wanted.items()}
    return scarce | dict.fromkeys(PLENTY_SKUS, max(1, len(orders)) * QUANTITY_MAX)


def _plan_kills(orders: int, chance: random.Random) -> tuple[PlannedKill, ...]:
    return tuple(
        PlannedKill(after_orders=_after(orders, between, chance), victim=victim, draw=chance.random())
        for victim, between in (
            (WORKER, _WORKER_KILL),
            (chance.choice(CHECKOUTS), _CHECKOUT_KILL),
            (chance.choice(SHOP), _PARTICIPANT_KILL),
        )
    )


def _plan_shipping_kills(orders: int, chance: random.Random) -> tuple[PlannedKill, ...]:
    return tuple(
        PlannedKill(after_orders=_after(orders, between, chance), victim=victim, draw=chance.random())
        for victim, between in ((SHIPPING, _SHIPPING_KILL), (REDIS, _REDIS_KILL))
    )


def _after(orders: int, between: tuple[float, float], chance: random.Random) -> int:
    return max(1, int(orders * chance.uniform(*between)))
