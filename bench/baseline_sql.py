"""The SQL of the reference participants, without the participants.

For a batch of calls of one operation each function sends what the SDK's barrier
and the participant's handlers send for it, in their order, in the caller's
transaction: one statement after the other, as somebody must who looks at what the
one before has found. The text is theirs. Nothing is judged: every call is taken
for the first of its kind, every SKU for one that is in stock.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from psycopg import AsyncConnection
from sqlalchemy import MetaData
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.expression import Executable

from participants.coupon import store as coupon
from participants.inventory import store as inventory
from participants.inventory.reservation import ReservationState, Verb, stock_changes
from participants.order import store as order
from participants.order.order import OrderState
from tcc._internal.arrays import bytes_array, plain_array, text_array
from tcc._internal.uuid7 import uuid7
from tcc.barrier.decisions import WRITES, Operation
from tcc.barrier.plans import BarrierSql, Plan, Statement as BarrierStatement
from tcc.barrier.sql import statements
from tcc.branch import Branch
from tcc.participant.v1 import participant_pb2 as pb

Calls = Sequence[pb.BranchCall]
Connection = AsyncConnection[tuple[Any, ...]]
# What each Try returns, in the order of the calls; None: nothing.
Results = Sequence[bytes] | None

CONTENT_TYPE = "application/json"


class Sql(NamedTuple):
    """A statement as psycopg wants it, with the values of its constants."""

    text: str
    constants: Mapping[str, Any]

    async def send(self, db: Connection, **values: str | int) -> int:
        """Answers how many rows it read or wrote."""
        return (await db.execute(self.text, {**self.constants, **values})).rowcount


def _sql(statement: Executable) -> Sql:
    compiled = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[no-untyped-call,attr-defined] # every Core construct has it
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return Sql(str(compiled), constants)


# --- the barrier -------------------------------------------------------------

_barrier: BarrierSql = statements("postgresql")
_example = Branch(gid="", branch_id="", action="")


def _first_of(plan: Plan[Any]) -> Sql:
    statement = next(plan)
    assert isinstance(statement, BarrierStatement)
    return _sql(statement.text)


_CLAIM = _first_of(_barrier.claim(Operation.TRY, "", [_example]))
_CLAIM_WITH_RESULTS = _first_of(
    _barrier.claim(Operation.TRY, "", [_example._replace(try_result_content_type=CONTENT_TYPE)])
)
_LOCK = _first_of(_barrier.lock([_example.key]))
_MOVE = _first_of(_barrier.move([_example.key], WRITES[Operation.CONFIRM]))


def _keys(calls: Calls) -> tuple[str, str]:
    """Gids and branch ids as arrays, written once for all statements of the batch."""
    return text_array([call.gid for call in calls]), text_array([call.branch_id for call in calls])


async def _claim(db: Connection, calls: Calls, results: Results = None) -> tuple[str, str]:
    """What a Try begins with. Answers the keys."""
    gids, branch_ids = _keys(calls)
    kept = {} if results is None else _kept(results)
    answered = await (_CLAIM_WITH_RESULTS if kept else _CLAIM).send(
        db,
        action=calls[0].action,
        state=int(WRITES[Operation.TRY]),
        gids=gids,
        branch_ids=branch_ids,
        expiries=plain_array([call.expires_at_ms for call in calls]),
        expires=True,
        wanted=len(calls),
        **kept,
    )
    assert answered == 1, "one row says that every claim was made"
    return gids, branch_ids


def _kept(results: Sequence[bytes]) -> dict[str, str]:
    """Results as the parameters of a claim that writes them."""
    return {"data": bytes_array(results), "content_types": text_array([CONTENT_TYPE] * len(results))}


async def _move(db: Connection, calls: Calls) -> tuple[str, str]:
    """What a Confirm begins with. Answers the keys."""
    gids, branch_ids = _keys(calls)
    locked = await _LOCK.send(db, gids=gids, branch_ids=branch_ids)
    moved = await _MOVE.send(db, gids=gids, branch_ids=branch_ids, state=int(WRITES[Operation.CONFIRM]))
    assert locked == moved == len(calls)
    return gids, branch_ids


# --- the inventory -----------------------------------------------------------


class _Reserve(msgspec.Struct):
    sku: str
    quantity: int


_decode_reserve = msgspec.json.Decoder(_Reserve).decode
_LOCK_STOCK = _sql(inventory.LOCK_STOCK)
_RESERVE = _sql(inventory.RESERVE)
_CHANGE_STOCK = _sql(inventory.CHANGE_STOCK)
_MOVE_RESERVATION = _sql(inventory.MOVE)


async def _reserve(db: Connection, calls: Calls) -> Results:
    wanted = [_decode_reserve(call.payload) for call in calls]
    skus = [each.sku for each in wanted]
    quantities = [each.quantity for each in wanted]
    freeze_ids = [uuid7() for _ in calls]
    results = [b'{"freeze_id":"%s"}' % freeze_id.encode() for freeze_id in freeze_ids]
    gids, branch_ids = await _claim(db, calls, results)
    await _LOCK_STOCK.send(db, skus=text_array(sorted(set(skus))))
    changed = await _RESERVE.send(
        db,
        gid_array=gids,
        branch_id_array=branch_ids,
        freeze_id_array=plain_array(freeze_ids),
        reserved_sku_array=text_array(skus),
        quantity_array=plain_array(quantities),
        **_changes(Verb.RESERVE, skus, quantities),
    )
    assert changed == len(set(skus))
    return results


async def _sell(db: Connection, calls: Calls) -> None:
    wanted = [_decode_reserve(call.payload) for call in calls]
    gids, branch_ids = await _move(db, calls)
    sold = await _MOVE_RESERVATION.send(
        db,
        gid_array=gids,
        branch_id_array=branch_ids,
        sources=text_array([ReservationState.RESERVED]),
        target=ReservationState.CONFIRMED,
    )
    assert sold == len(calls)
    changes = _changes(Verb.CONFIRM, [each.sku for each in wanted], [each.quantity for each in wanted])
    assert await _CHANGE_STOCK.send(db, **changes) == len({each.sku for each in wanted})


def _changes(verb: Verb, skus: Sequence[str], quantities: Sequence[int]) -> dict[str, str]:
    changes = stock_changes(verb, zip(skus, quantities, strict=True))
    changed, available, reserved, sold = zip(*changes, strict=True)
    return {
        "sku_array": text_array(changed),
        "available_array": plain_array(available),
        "reserved_array": plain_array(reserved),
        "sold_array": plain_array(sold),
    }


# --- the coupons -------------------------------------------------------------


class _Use(msgspec.Struct):
    coupon_id: str


_decode_use = msgspec.json.Decoder(_Use).decode
_LOCK_COUPONS = _sql(coupon.LOCK)
_FREEZE = _sql(coupon.FREEZE)
_USE = _sql(coupon.USE)


async def _freeze(db: Connection, calls: Calls) -> Results:
    coupon_ids = [_decode_use(call.payload).coupon_id for call in calls]
    gids, branch_ids = await _claim(db, calls)
    await _LOCK_COUPONS.send(db, coupon_ids=text_array(sorted(coupon_ids)))
    frozen = await _FREEZE.send(
        db, coupon_id_array=text_array(coupon_ids), gid_array=gids, branch_id_array=branch_ids
    )
    assert frozen == len(calls)
    return None


async def _use(db: Connection, calls: Calls) -> None:
    coupon_ids = [_decode_use(call.payload).coupon_id for call in calls]
    await _move(db, calls)
    await _LOCK_COUPONS.send(db, coupon_ids=text_array(sorted(coupon_ids)))
    assert await _USE.send(db, coupon_ids=text_array(coupon_ids)) == len(calls)


# --- the orders --------------------------------------------------------------


class _Open(msgspec.Struct):
    order_id: str
    customer_id: str
    sku: str
    quantity: int
    coupon_id: str | None = None


_decode_open = msgspec.json.Decoder(_Open).decode
_OPEN = _sql(order.OPEN)
_MOVE_ORDERS = _sql(order.MOVE)


async def _open(db: Connection, calls: Calls) -> Results:
    wanted = [_decode_open(call.payload) for call in calls]
    gids, branch_ids = await _claim(db, calls)
    opened = await _OPEN.send(
        db,
        gid_array=gids,
        branch_id_array=branch_ids,
        order_id_array=text_array([each.order_id for each in wanted]),
        customer_id_array=text_array([each.customer_id for each in wanted]),
        sku_array=text_array([each.sku for each in wanted]),
        quantity_array=plain_array([each.quantity for each in wanted]),
        coupon_id_array=text_array([each.coupon_id for each in wanted]),
    )
    assert opened == len(calls)
    return None


async def _confirm(db: Connection, calls: Calls) -> None:
    gids, branch_ids = await _move(db, calls)
    confirmed = await _MOVE_ORDERS.send(
        db,
        gid_array=gids,
        branch_id_array=branch_ids,
        sources=text_array([OrderState.PENDING]),
        target=OrderState.CONFIRMED,
    )
    assert confirmed == len(calls)


class Participant(NamedTuple):
    """What one of the three writes when all goes well."""

    metadata: MetaData
    try_: Callable[[Connection, Calls], Awaitable[Results]]
    confirm: Callable[[Connection, Calls], Awaitable[None]]


PARTICIPANTS: Mapping[str, Participant] = {
    "inventory": Participant(inventory.metadata, _reserve, _sell),
    "coupon": Participant(coupon.metadata, _freeze, _use),
    "order": Participant(order.metadata, _open, _confirm),
}
