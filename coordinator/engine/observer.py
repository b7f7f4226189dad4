"""What the engine tells whoever wants to know: one call for each batch, none for each transaction.

The observer here does nothing. `coordinator.metrics` counts what it is told; the engine
knows neither that nor how. Traced transactions alone are told of one by one (`Spans`).
"""

from collections.abc import Sequence
from enum import Enum

from coordinator.core.model import Answer, Transaction
from coordinator.ports import BranchCall, Record


class Anomaly(Enum):
    """What an operator may want to be told at once. The value says it in words."""

    STUCK = "a transaction is stuck"
    BREAKER_OPENED = "a participant does not answer"
    BREAKER_CLOSED = "a participant answers again"
    LOG_AWAY = "the transaction log cannot be reached"
    LOG_BACK = "the transaction log is back"
    ADOPTED = "transactions of a dead coordinator were adopted"
    UNRECONCILED = "what a participant has on its books does not agree with the log"
    RELOAD_REFUSED = "a changed configuration has mistakes and was not taken over"


class Observer:
    """Is told what happens. Every method returns at once and raises nothing. Spans are in seconds."""

    def written(self, write: str, count: int, span_s: float) -> None:
        """A batch of `count` writes ("begin" or "change") is durable; the log took `span_s`."""

    def write_failed(self) -> None:
        """The log did not answer a write."""

    def changed(self, batch: Sequence[Transaction]) -> None:
        """These changes are durable: decisions, ends, and what was parked."""

    def phase_ended(self, phase: str, span_s: float) -> None:
        """A phase ("try", "confirm", "cancel") of one transaction, a sample of its batch, took so long."""

    def sent(self, participant: str, calls: Sequence[BranchCall]) -> None:
        """A batch of calls leaves."""

    def answered(self, participant: str, answers: Sequence[tuple[BranchCall, Answer]], span_s: float) -> None:
        """Some calls of a batch are answered, so long after it left."""

    def withheld(self, participant: str, count: int) -> None:
        """Calls did not leave, since the breaker is open."""

    def resumed(self, how: str, count: int) -> None:
        """Transactions were taken up again: "retried" or "adopted"."""

    def heartbeat(self) -> None:
        """The lease was renewed."""

    def purged(self, count: int, *, finished: bool) -> None:
        """Ended transactions were deleted; `finished`: nothing is left to delete now."""

    def anomaly(self, kind: Anomaly, **facts: object) -> None:
        """Something out of the ordinary; `facts` are JSON values."""


class Spans:
    """Is told what becomes of transactions that belong to a trace, and of no others.

    This one does nothing; `coordinator.tracing` makes spans of it. Times are those of the log.
    """

    def phase_ended(self, tx: Transaction, began_at: float, ended_at: float) -> None:
        """It is durable that `tx` is decided, or ended: that is its state."""

    def adopted(self, record: Record, at: float) -> None:
        """A transaction was taken over from a dead coordinator."""


SILENT = Observer()
NO_SPANS = Spans()
