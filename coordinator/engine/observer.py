"""What the engine reports to observers: one call for each batch, none for each transaction.

The observer here does nothing. `coordinator.observability.metrics` implements it with counters. Only
traced transactions are reported one by one (`Spans`).
"""

from collections.abc import Sequence
from enum import Enum

from coordinator.core.model import BranchCall, Transaction
from coordinator.ports.log import Record
from coordinator.ports.participants import CallResults


class Anomaly(Enum):
    """A condition that operators are alerted of. The value describes it."""

    STUCK = "a transaction is stuck"
    BREAKER_OPENED = "a participant does not answer"
    BREAKER_CLOSED = "a participant answers again"
    LOG_UNAVAILABLE = "the transaction log cannot be reached"
    LOG_RECOVERED = "the transaction log is back"
    LOG_REJECTED = "the transaction log rejected the write of one transaction"
    ROW_MISSING = "rows that were durable are missing from the transaction log"
    QUARANTINED = "a transaction is quarantined: its row in the log cannot be used"
    BUG = "the coordinator failed at something because of a bug, and goes on; its log output has the cause"
    ADOPTED = "transactions of a dead coordinator were adopted"
    UNRECONCILED = "the barrier rows of a participant do not agree with the log"
    AUDIT_BROKEN = "the audit chain is not the one that was known: records were changed, replaced or removed"
    RELOAD_REFUSED = "a changed configuration is invalid and was not applied"


class Observer:
    """Receives events. Every method returns at once and raises nothing. Spans are in seconds."""

    def written(self, write: str, count: int, span_s: float) -> None:
        """Observe that a batch of `count` writes ("begin" or "change") is durable, after `span_s`."""

    def write_failed(self) -> None:
        """Observe a write that the log did not answer."""

    def changed(self, batch: Sequence[Transaction]) -> None:
        """Observe durable changes: decisions, ends, and parked transactions."""

    def phase_ended(self, phase: str, span_s: float) -> None:
        """Observe how long a phase ("try", "confirm", "cancel") of one sampled transaction took."""

    def sent(self, participant: str, calls: Sequence[BranchCall]) -> None:
        """Observe that a batch of calls is sent."""

    def answered(self, participant: str, answers: CallResults, span_s: float) -> None:
        """Observe that some calls of a batch have ended, `span_s` after it was sent."""

    def not_sent(self, participant: str, count: int) -> None:
        """Observe calls that were not sent, because the breaker is open."""

    def resumed(self, how: str, count: int) -> None:
        """Observe that transactions were resumed: "retried" or "adopted"."""

    def heartbeat(self) -> None:
        """Observe that the lease was renewed."""

    def purged(self, count: int, *, finished: bool) -> None:
        """Observe that ended transactions were deleted; `finished`: nothing is left to delete now."""

    def anomaly(self, kind: Anomaly, **facts: object) -> None:
        """Observe an anomaly; `facts` are JSON values."""


class Spans:
    """Receives the progress of transactions that belong to a trace, and of no others.

    This class does nothing; `coordinator.observability.tracing` makes spans. Times are those of the log.
    """

    def phase_ended(self, tx: Transaction, began_at: float, ended_at: float) -> None:
        """Observe that the state of `tx`, which is decided or ended, is durable."""

    def adopted(self, record: Record, at: float) -> None:
        """Observe that a transaction was taken over from a dead coordinator."""


NULL_OBSERVER = Observer()
NULL_SPANS = Spans()
