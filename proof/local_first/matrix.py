"""The steps at which an initiator is killed, what must come of it, and the table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """When the initiator is killed."""

    TRIED = "after the Trys, before the local branch is registered"
    REGISTERED = "registered, before the local transaction"
    IN_BLOCK = "in the local transaction"
    BEFORE_COMMIT = "before COMMIT is sent"
    IN_COMMIT = "in COMMIT"
    COMMITTED = "committed, before Confirm"
    CONFIRM_SENT = "Confirm is sent"
    CONFIRM_ANSWERED = "Confirm is answered"
    ASKED_BEFORE = "asked: nothing committed, no tombstone yet"
    ASKED_AFTER = "asked: nothing committed, tombstone written"
    ASKED_OPEN = "asked: its local transaction is open"
    ASKED_COMMITTED = "asked: committed, before the answer"


class Return(StrEnum):
    """When another process of the initiator serves."""

    AT_ONCE = "back at once"
    # After the coordinator has asked in vain.
    LATE = "back late"
    NEVER = "never back"


# The local change is committed when the process dies.
COMMITTED = frozenset(
    {Step.IN_COMMIT, Step.COMMITTED, Step.CONFIRM_SENT, Step.CONFIRM_ANSWERED, Step.ASKED_COMMITTED}
)
# It is decided without the question: by the expiry, or by the Confirm.
DECIDED_WITHOUT_CHECK = frozenset({Step.TRIED, Step.CONFIRM_ANSWERED})
# The initiator is alive when its transaction expires.
ASKED = frozenset({Step.ASKED_BEFORE, Step.ASKED_AFTER, Step.ASKED_OPEN, Step.ASKED_COMMITTED})


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a cell ended. `decision`: CONFIRM or CANCEL; empty: undecided, and marked stuck."""

    decision: str
    is_committed: bool
    # What became of the other branches: the state of the stock, and the messages delivered.
    stock: str
    delivered: int

    def __str__(self) -> str:
        return f"{self.decision or 'undecided'}, {'row' if self.is_committed else 'no row'}"


_CONFIRMED = End(decision="CONFIRM", is_committed=True, stock="CONFIRMED", delivered=1)
_CANCELLED = End(decision="CANCEL", is_committed=False, stock="CANCELLED", delivered=0)


def expected(step: Step, back: Return) -> Sequence[End]:
    """Return the right ends of a cell: one, but for a Confirm that may be lost with its sender."""
    is_committed = step in COMMITTED
    decided = _CONFIRMED if is_committed else _CANCELLED
    open_end = End(decision="", is_committed=is_committed, stock="RESERVED", delivered=0)
    if back is not Return.NEVER or step in DECIDED_WITHOUT_CHECK:
        return [decided]
    return [decided, open_end] if step is Step.CONFIRM_SENT else [open_end]


def table(ends: Iterable[tuple[Step, Return, End]]) -> str:
    """Return the matrix as a Markdown table."""
    cells = {(step, back): str(end) for step, back, end in ends}
    rows = [
        ["killed", *Return],
        ["---"] * (1 + len(Return)),
        *([step, *(cells.get((step, back), "-") for back in Return)] for step in Step),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(1 + len(Return))]
    return "\n".join(
        f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True))} |"
        for row in rows
    )
