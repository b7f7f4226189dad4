"""The audit: proves after any storm that nothing was lost, doubled or half done.

It reads the three databases and how every transaction ended, trusts none of
them, and compares:

- each SKU: available + reserved + sold is what was ever put in, and the counts
  agree with the reservations;
- each reservation, coupon and order: its state is what its transaction's end
  demands, none is left over, and none belongs to a transaction nobody knows;
- each branch of a transaction that was confirmed: it left exactly its record;
- each coupon: used by at most one confirmed order, and by that order's transaction.

The audit is meant for the calm after the storm: a transaction that has not ended
is itself a violation. `rules` is pure; `snapshot` and `transactions` only read.

    python -m participants.audit --coordinator HOST:PORT --inventory URL --coupon URL --order URL

prints one violation a line and exits with 1, or prints `ok` and exits with 0.
"""

from participants.audit.rules import Violation, audit
from participants.audit.snapshot import Snapshot, read_snapshot
from participants.audit.transactions import AuditedTransaction, End, list_transactions

__all__ = [
    "AuditedTransaction",
    "End",
    "Snapshot",
    "Violation",
    "audit",
    "list_transactions",
    "read_snapshot",
]
