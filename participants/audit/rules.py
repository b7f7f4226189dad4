"""The rules of the audit, as pure functions of the data."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from participants.audit.snapshot import Order, Snapshot, Stock
from participants.audit.transactions import AuditedTransaction, End
from participants.coupon.coupon import CouponState
from participants.inventory.reservation import ReservationState
from participants.order.order import OrderState
from participants.payment.store import CHARGED, REFUNDED

# The names of the participants in the coordinator's configuration.
INVENTORY, COUPON, ORDER = "inventory", "coupon", "order"
PARTICIPANTS = frozenset({INVENTORY, COUPON, ORDER})
PAYMENT, MAIL, EVENTS = "payment", "mail", "events"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The record of a branch at its participant, in a form common to all three."""

    participant: str
    gid: str
    branch_id: str
    # The SKU, coupon or order, for people.
    subject: str
    # CONFIRMED, CANCELLED, or OPEN while it waits for phase two.
    end: End


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One broken rule; `rule` is a stable UPPER_SNAKE word."""

    rule: str
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule} {self.subject}: {self.detail}"


def audit(snapshot: Snapshot, transactions: Iterable[AuditedTransaction]) -> list[Violation]:
    """Return all violations; none means that the data is consistent."""
    by_gid = {transaction.gid: transaction for transaction in transactions}
    records = _records(snapshot)
    return [
        *_check_stock(snapshot),
        *_check_open(by_gid.values()),
        *_check_records(records, by_gid),
        *_check_missing(records, by_gid.values()),
        *_check_coupons(snapshot),
        *_check_payments(snapshot, by_gid),
        *_check_receipts(snapshot, by_gid),
        *_check_shipments(snapshot, by_gid),
    ]


def _check_stock(snapshot: Snapshot) -> Iterator[Violation]:
    """Check that no stock was lost or created, and that counts are the sums of the reservations."""
    sums: Counter[tuple[str, ReservationState]] = Counter()
    for reservation in snapshot.reservations:
        sums[reservation.sku, reservation.state] += reservation.quantity
    stocks = {row.sku: row for row in snapshot.stocks}
    for sku in sorted(stocks.keys() | snapshot.restocked.keys() | {sku for sku, _ in sums}):
        yield from _check_sku(
            stocks.get(sku, Stock(sku=sku, available=0, reserved=0, sold=0)),
            restocked=snapshot.restocked.get(sku, 0),
            reserved=sums[sku, ReservationState.RESERVED],
            sold=sums[sku, ReservationState.CONFIRMED],
        )


def _check_sku(row: Stock, *, restocked: int, reserved: int, sold: int) -> Iterator[Violation]:
    if row.available + row.reserved + row.sold != restocked:
        counts = f"{row.available} available + {row.reserved} reserved + {row.sold} sold"
        yield Violation(rule="STOCK_NOT_CONSERVED", subject=row.sku, detail=f"{counts}, not {restocked}")
    if min(row.available, row.reserved, row.sold) < 0:
        yield Violation(rule="STOCK_NEGATIVE", subject=row.sku, detail=str(row))
    if row.reserved != reserved:
        detail = f"{row.reserved} in stock, {reserved} in reservations"
        yield Violation(rule="RESERVED_DISAGREES", subject=row.sku, detail=detail)
    if row.sold != sold:
        detail = f"{row.sold} in stock, {sold} in reservations"
        yield Violation(rule="SOLD_DISAGREES", subject=row.sku, detail=detail)


def _check_open(transactions: Iterable[AuditedTransaction]) -> Iterator[Violation]:
    for transaction in transactions:
        if transaction.end is End.OPEN:
            yield Violation(rule="TRANSACTION_OPEN", subject=transaction.gid, detail="it has not ended")


def _check_records(
    records: Iterable[Record], transactions: Mapping[str, AuditedTransaction]
) -> Iterator[Violation]:
    for record in records:
        wrong = _wrong_with(record, transactions.get(record.gid))
        if wrong is not None:
            rule, detail = wrong
            yield Violation(rule=rule, subject=f"{record.participant} {record.subject}", detail=detail)


def _wrong_with(record: Record, transaction: AuditedTransaction | None) -> tuple[str, str] | None:
    """Return the rule that a record breaks, with details. It must match the end of its transaction."""
    if transaction is None:
        return "ORPHAN", f"transaction {record.gid} is unknown to the coordinator"
    if (record.participant, record.branch_id) not in transaction.branches:
        return "BRANCH_UNKNOWN", f"transaction {record.gid} has no branch {record.branch_id}"
    if transaction.end is End.OPEN or record.end is transaction.end:
        return None  # an open transaction is reported once, by its own rule
    rule = "LEFT_OVER" if record.end is End.OPEN else "MIXED_OUTCOME"
    return rule, f"it is {record.end}, transaction {record.gid} is {transaction.end}"


def _check_missing(
    records: Iterable[Record], transactions: Iterable[AuditedTransaction]
) -> Iterator[Violation]:
    """Check that each branch of a confirmed transaction has a record (a cancelled one need not)."""
    known = {(record.participant, record.gid, record.branch_id) for record in records}
    for transaction in transactions:
        if transaction.end is not End.CONFIRMED:
            continue
        for participant, branch_id in transaction.branches:
            if participant in PARTICIPANTS and (participant, transaction.gid, branch_id) not in known:
                yield Violation(
                    rule="RECORD_MISSING",
                    subject=f"{participant} {branch_id}",
                    detail=f"transaction {transaction.gid} is CONFIRMED and has no record here",
                )


def _check_coupons(snapshot: Snapshot) -> Iterator[Violation]:
    """Check that no coupon was used for two orders, and that its order belongs to its holder."""
    spent: defaultdict[str, list[Order]] = defaultdict(list)
    for order in snapshot.orders:
        if order.coupon_id is not None and order.state is OrderState.CONFIRMED:
            spent[order.coupon_id].append(order)
    users = {row.coupon_id: row.gid for row in snapshot.coupons if row.state is CouponState.USED}
    for coupon_id, spenders in sorted(spent.items()):
        if len(spenders) > 1:
            yield Violation(
                rule="COUPON_USED_TWICE",
                subject=coupon_id,
                detail=f"by the orders {', '.join(order.order_id for order in spenders)}",
            )
        if users.get(coupon_id) not in {order.gid for order in spenders}:
            yield Violation(
                rule="COUPON_NOT_USED",
                subject=coupon_id,
                detail=f"order {spenders[0].order_id} names it, and its transaction does not hold it used",
            )


def _check_payments(
    snapshot: Snapshot, transactions: Mapping[str, AuditedTransaction]
) -> Iterator[Violation]:
    """Check that a confirmed order is charged once, and a cancelled one refunded or never charged."""
    entries: Counter[tuple[tuple[str, str], str]] = Counter(
        ((entry.gid, entry.branch_id), entry.verb) for entry in snapshot.payments
    )
    for key in sorted({key for key, _ in entries} | _branches_at(PAYMENT, transactions.values())):
        charged, refunded = entries[key, CHARGED], entries[key, REFUNDED]
        transaction = transactions.get(key[0])
        detail = f"charged {charged} times, refunded {refunded} times"
        if transaction is None or (PAYMENT, key[1]) not in transaction.branches:
            yield Violation(
                rule="PAYMENT_UNKNOWN", subject=key[0], detail=f"{detail}; the log has no such branch"
            )
        elif transaction.end is End.CONFIRMED and (charged, refunded) != (1, 0):
            yield Violation(rule="NOT_CHARGED_ONCE", subject=key[0], detail=f"{detail}; it is CONFIRMED")
        elif transaction.end is End.CANCELLED and (charged, refunded) not in {(0, 0), (1, 1)}:
            yield Violation(rule="NOT_REFUNDED_ONCE", subject=key[0], detail=f"{detail}; it is CANCELLED")


def _check_receipts(
    snapshot: Snapshot, transactions: Mapping[str, AuditedTransaction]
) -> Iterator[Violation]:
    """Check that a confirmed order has one receipt, and any other one none."""
    sent = Counter((receipt.gid, receipt.branch_id) for receipt in snapshot.receipts)
    return _check_effects("RECEIPT", MAIL, sent, transactions)


def _check_shipments(
    snapshot: Snapshot, transactions: Mapping[str, AuditedTransaction]
) -> Iterator[Violation]:
    """Check that a confirmed order has one shipment, and any other one none."""
    if snapshot.shipments is None:
        return iter(())
    shipped = Counter((shipment.gid, shipment.branch_id) for shipment in snapshot.shipments)
    return _check_effects("SHIPMENT", EVENTS, shipped, transactions)


def _check_effects(
    effect: str,
    participant: str,
    found: Counter[tuple[str, str]],
    transactions: Mapping[str, AuditedTransaction],
) -> Iterator[Violation]:
    """Check the effects of a participant's messages: one for each branch that is confirmed."""
    for key in sorted(set(found) | _branches_at(participant, transactions.values())):
        transaction = transactions.get(key[0])
        if transaction is None or (participant, key[1]) not in transaction.branches:
            yield Violation(rule=f"{effect}_UNKNOWN", subject=key[0], detail="the log has no such branch")
            continue
        wanted = int(transaction.end is End.CONFIRMED)
        if found[key] != wanted and transaction.end is not End.OPEN:
            yield Violation(
                rule=f"{effect}S_DISAGREE",
                subject=key[0],
                detail=f"{found[key]} {effect.lower()}s, not {wanted}: it is {transaction.end}",
            )


def _branches_at(participant: str, transactions: Iterable[AuditedTransaction]) -> set[tuple[str, str]]:
    """Return the keys of the branches at a participant."""
    return {
        (transaction.gid, branch_id)
        for transaction in transactions
        for name, branch_id in transaction.branches
        if name == participant
    }


def _records(snapshot: Snapshot) -> list[Record]:
    return [*_reservation_records(snapshot), *_coupon_records(snapshot), *_order_records(snapshot)]


def _reservation_records(snapshot: Snapshot) -> Iterator[Record]:
    ends = {
        ReservationState.RESERVED: End.OPEN,
        ReservationState.CONFIRMED: End.CONFIRMED,
        ReservationState.CANCELLED: End.CANCELLED,
    }
    for row in snapshot.reservations:
        yield Record(
            participant=INVENTORY,
            gid=row.gid,
            branch_id=row.branch_id,
            subject=row.sku,
            end=ends[row.state],
        )


def _coupon_records(snapshot: Snapshot) -> Iterator[Record]:
    """Return the records of coupons. One that was returned leaves no record: it is available again."""
    ends = {CouponState.FROZEN: End.OPEN, CouponState.USED: End.CONFIRMED}
    for row in snapshot.coupons:
        yield Record(
            participant=COUPON,
            gid=row.gid,
            branch_id=row.branch_id,
            subject=row.coupon_id,
            end=ends[row.state],
        )


def _order_records(snapshot: Snapshot) -> Iterator[Record]:
    ends = {
        OrderState.PENDING: End.OPEN,
        OrderState.CONFIRMED: End.CONFIRMED,
        OrderState.CANCELLED: End.CANCELLED,
    }
    for row in snapshot.orders:
        yield Record(
            participant=ORDER,
            gid=row.gid,
            branch_id=row.branch_id,
            subject=row.order_id,
            end=ends[row.state],
        )
