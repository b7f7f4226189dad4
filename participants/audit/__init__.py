"""The audit: checks after a load with faults that nothing was lost, doubled or half done.

It reads the databases and the end of every transaction, and compares them:

- each SKU: available + reserved + sold equals the quantity that was put in, and the
  counts agree with the reservations;
- each reservation, coupon and order: its state matches the end of its transaction, none
  is open, and none belongs to a transaction that the coordinator does not know;
- each branch of a confirmed transaction: it has exactly one record (so an order that is committed
  locally first exists if and only if its transaction is confirmed);
- each coupon: used by at most one confirmed order, in that order's transaction;
- each payment: charged once if confirmed; charged and refunded, or never charged, if cancelled;
- each receipt: one if confirmed, none if cancelled;
- each shipment: the same, once its consumers have caught up.

Run the audit after the load has ended: a transaction that has not ended is a violation.
`rules` is pure; `snapshot` and `transactions` only read.

    python -m participants.audit --coordinator HOST:PORT --inventory URL --coupon URL --order URL \
        [--payment URL --mail URL --shipping URL]

prints one violation per line and exits with 1, or prints `ok` and exits with 0.
"""

from participants.audit.rules import Violation, audit
from participants.audit.snapshot import Snapshot, read_snapshot
from participants.audit.transactions import AuditedTransaction, End, list_transactions, read_transactions

__all__ = [
    "AuditedTransaction",
    "End",
    "Snapshot",
    "Violation",
    "audit",
    "list_transactions",
    "read_snapshot",
    "read_transactions",
]
