"""The transactions that are measured: their branches and participants.

A scenario names a *kind* of work and its parameters, as plain JSON because they are sent to
other processes. An initiator takes one transaction after the other from `transactions`. The
kinds are the functions of `_KINDS`.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, repeat
from typing import Any

from tcc import BranchRequest
from tcc.client.requests import Kind

Transaction = Sequence[BranchRequest]

# The three that do nothing, and the one branch that each of them gets.
PARTICIPANTS = ("inventory", "coupon", "order")
ACTION = "reserve"
PAYLOAD = b'{"sku":"KEYBOARD-17","quantity":1}'
# What a success writes: the insert, the decision, the completion.
LOG_WRITES = 3

SKUS = 500


def noop(participants: Sequence[str] = PARTICIPANTS, branch_kind: Kind = "tcc") -> dict[str, Any]:
    """Transactions of one no-op branch at each of these participants."""
    return {"kind": "noop", "participants": list(participants), "branch_kind": branch_kind}


def orders(run: str) -> dict[str, Any]:
    """Orders of one item and one coupon each, spread evenly over SKUs. `run` makes their ids unique."""
    return {"kind": "orders", "run": run}


def reservations(calls: int) -> dict[str, Any]:
    """Batches of `calls` calls of the inventory, all for one SKU."""
    return {"kind": "reservations", "calls": calls}


def transactions(work: Mapping[str, Any], *, position: int = 0, of: int = 1) -> Iterator[Transaction]:
    """Yield transactions without end, for initiator `position` of `of` that share the work."""
    parameters = dict(work)
    return _KINDS[parameters.pop("kind")](count(position, of), **parameters)


def sku(number: int) -> str:
    return f"SKU-{number:04}"


def coupon_id(run: str, number: int) -> str:
    return f"{run}-{number}"


def _noop(_numbers: Iterable[int], participants: Sequence[str], branch_kind: Kind) -> Iterator[Transaction]:
    return repeat([BranchRequest(name, ACTION, PAYLOAD, kind=branch_kind) for name in participants])


def _orders(numbers: Iterable[int], run: str) -> Iterator[Transaction]:
    choose = random.Random(run).randrange
    for number in numbers:
        yield _order(f"{run}-{number}", sku(choose(SKUS)), coupon_id(run, number))


def _order(order_id: str, wanted: str, coupon: str) -> Transaction:
    item = {"sku": wanted, "quantity": 1}
    order = {**item, "order_id": order_id, "customer_id": "customer-1", "coupon_id": coupon}
    return [
        BranchRequest("inventory", "reserve_stock", item),
        BranchRequest("coupon", "use_coupon", {"coupon_id": coupon}),
        BranchRequest("order", "open_order", order),
    ]


def _reservations(_numbers: Iterable[int], calls: int) -> Iterator[Transaction]:
    return repeat([BranchRequest("inventory", "reserve_stock", {"sku": sku(0), "quantity": 1})] * calls)


_KINDS: Mapping[str, Callable[..., Iterator[Transaction]]] = {
    "noop": _noop,
    "orders": _orders,
    "reservations": _reservations,
}
