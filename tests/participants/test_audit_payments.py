"""The audit's rules for payments, receipts and shipments, on made data; and the services that write them."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.audit import AuditedTransaction, End, Snapshot, audit, read_snapshot
from participants.mail.service import mail
from participants.mail.store import Receipt, metadata as mail_metadata
from participants.order.store import NewOrder, metadata as order_metadata, order_place
from participants.payment.service import payment
from participants.payment.store import CHARGED, REFUNDED, Entry, metadata as payment_metadata
from participants.serving import create_schema
from participants.shipping.store import Shipment
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb

CONFIRMED, CANCELLED, OPEN = End.CONFIRMED, End.CANCELLED, End.OPEN


def violations(end: End | None, *, charged: int = 0, refunded: int = 0, receipts: int = 0) -> list[str]:
    """Return the rules that one order breaks, which ended so and has these effects. None: it is unknown."""
    verbs = [CHARGED] * charged + [REFUNDED] * refunded
    snapshot = Snapshot(
        stocks=[],
        restocked={},
        reservations=[],
        coupons=[],
        orders=[],
        payments=[Entry("g", "payment", verb, "ann", 1) for verb in verbs],
        receipts=[Receipt("g", "mail", "g")] * receipts,
    )
    branches = (("payment", "payment"), ("mail", "mail"))
    known = [] if end is None else [AuditedTransaction(gid="g", end=end, branches=branches)]
    return [violation.rule for violation in audit(snapshot, known)]


@pytest.mark.parametrize(
    ("end", "effects", "rules"),
    [
        (CONFIRMED, {"charged": 1, "receipts": 1}, []),
        (CONFIRMED, {"receipts": 1}, ["NOT_CHARGED_ONCE"]),
        (CONFIRMED, {"charged": 2, "receipts": 1}, ["NOT_CHARGED_ONCE"]),
        (CONFIRMED, {"charged": 1, "refunded": 1, "receipts": 1}, ["NOT_CHARGED_ONCE"]),
        (CONFIRMED, {"charged": 1}, ["RECEIPTS_DISAGREE"]),
        (CONFIRMED, {"charged": 1, "receipts": 2}, ["RECEIPTS_DISAGREE"]),
        (CANCELLED, {}, []),
        (CANCELLED, {"charged": 1, "refunded": 1}, []),
        (CANCELLED, {"charged": 1}, ["NOT_REFUNDED_ONCE"]),
        (CANCELLED, {"refunded": 1}, ["NOT_REFUNDED_ONCE"]),
        (CANCELLED, {"charged": 1, "refunded": 2}, ["NOT_REFUNDED_ONCE"]),
        (CANCELLED, {"receipts": 1}, ["RECEIPTS_DISAGREE"]),
        (OPEN, {"charged": 1}, ["TRANSACTION_OPEN"]),
        (None, {"charged": 1, "receipts": 1}, ["PAYMENT_UNKNOWN", "RECEIPT_UNKNOWN"]),
    ],
    ids=str,
)
def test_the_rules_of_payments_and_receipts(end, effects, rules):
    assert violations(end, **effects) == rules


@pytest.mark.parametrize(
    ("end", "is_committed", "rules"),
    [
        (CONFIRMED, True, []),
        (CONFIRMED, False, ["RECORD_MISSING"]),
        (CANCELLED, False, []),
        (CANCELLED, True, ["MIXED_OUTCOME"]),
        (None, True, ["ORPHAN"]),
    ],
)
async def test_an_order_is_committed_locally_exactly_if_confirmed(
    database: AsyncEngine, end, is_committed, rules
):
    row = NewOrder("o", "g", "order", "ann", "tea", 1, None)
    async with database.begin() as db:
        await db.run_sync(order_metadata.create_all)
        if is_committed:
            await order_place(db, row)
    url = database.url.render_as_string(hide_password=False)
    snapshot = await read_snapshot(inventory=url, coupon=url, order=url)
    assert [order.is_local for order in snapshot.orders] == [True] * is_committed

    known = [] if end is None else [AuditedTransaction(gid="g", end=end, branches=(("order", "order"),))]
    assert [violation.rule for violation in audit(snapshot, known)] == rules


@pytest.mark.parametrize(
    ("end", "count", "rules"),
    [
        (CONFIRMED, 1, []),
        (CONFIRMED, 0, ["SHIPMENTS_DISAGREE"]),
        (CONFIRMED, 2, ["SHIPMENTS_DISAGREE"]),
        (CONFIRMED, None, []),
        (CANCELLED, 0, []),
        (CANCELLED, 1, ["SHIPMENTS_DISAGREE"]),
        (None, 1, ["SHIPMENT_UNKNOWN"]),
    ],
    ids=str,
)
def test_the_rules_of_shipments(end, count, rules):
    shipments = None if count is None else [Shipment("g", "event", "g")] * count
    snapshot = Snapshot(stocks=[], restocked={}, reservations=[], coupons=[], orders=[], shipments=shipments)
    branches = (("events", "event"),)
    known = [] if end is None else [AuditedTransaction(gid="g", end=end, branches=branches)]
    assert [violation.rule for violation in audit(snapshot, known)] == rules


async def test_the_services_write_what_the_audit_reads(database: AsyncEngine, call_participant):
    for metadata in (payment_metadata, mail_metadata):
        await create_schema(database, metadata)
    paying, mailing = await call_participant(payment(database)), await call_participant(mail(database))
    charge = b'{"customer_id": "ann", "cents": 5}'

    def call(operation, kind, gid, action, payload):
        return pb.BranchCall(
            gid=gid,
            branch_id=action,
            operation=operation,
            action=action,
            payload=payload,
            content_type="application/json",
            kind=kind,
        )

    for gid, operations in (
        ("good", ["TRY"] * 2),
        ("bad", ["TRY", "CANCEL", "CANCEL"]),
        ("none", ["CANCEL"]),
    ):
        for operation in operations:
            number = common.Operation.Value(f"OPERATION_{operation}")
            [result] = await paying.execute(call(number, common.BRANCH_KIND_SAGA, gid, "charge", charge))
            assert result.code == common.OUTCOME_CODE_SUCCEEDED
    for _ in range(2):
        receipt = b'{"customer_id": "ann", "order_id": "good"}'
        [result] = await mailing.execute(
            call(common.OPERATION_CONFIRM, common.BRANCH_KIND_MESSAGE, "good", "send_receipt", receipt)
        )
        assert result.code == common.OUTCOME_CODE_SUCCEEDED

    url = database.url.render_as_string(hide_password=False)
    found = await read_snapshot(inventory=url, coupon=url, order=url, payment=url, mail=url)
    branches = (("payment", "charge"), ("mail", "send_receipt"))
    ends = {"good": CONFIRMED, "bad": CANCELLED, "none": CANCELLED}
    transactions = [AuditedTransaction(gid=gid, end=end, branches=branches) for gid, end in ends.items()]
    assert audit(found, transactions) == []
    assert sorted((entry.gid, entry.verb) for entry in found.payments) == [
        ("bad", CHARGED),
        ("bad", REFUNDED),
        ("good", CHARGED),
    ]
