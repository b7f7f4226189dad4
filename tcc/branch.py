"""The branch that a handler is called for, and the exception by which it rejects a Try."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from tcc import payload

T = TypeVar("T")

# The action of a branch that an initiator tries itself, in its own database (tx.local): reserved.
LOCAL_ACTION = "local"

# Of the reason of a rejection.
REASON_CHARACTERS_MAX = 128


class Rejected(Exception):  # noqa: N818 - a business rejection is an outcome, not an error
    """Reject a Try for a business reason: raise it in `try_`, or return it for an item of `try_batch`.

    The local transaction is rolled back, nothing is reserved, and the whole
    global transaction is cancelled.

    Args:
        reason: A stable UPPER_SNAKE word that programs compare, for example `SOLD_OUT`. An Enum
            member is accepted: its value if that is a string, otherwise its name. What exceeds
            128 characters is cut off.
        message: A text for people. What exceeds 500 characters is cut off when it is sent.
    """

    # For a subclass that does not call this class's __init__.
    reason = "REJECTED"
    message = ""

    def __init__(self, reason: str, message: str = "") -> None:
        if isinstance(reason, Enum):
            reason = reason.value if isinstance(reason.value, str) else reason.name
        if not isinstance(reason, str) or not isinstance(message, str):
            raise TypeError(
                'Rejected takes a reason and an optional message: Rejected("SOLD_OUT", "only 2 are left")'
            )
        reason = reason[:REASON_CHARACTERS_MAX]
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


@dataclass(frozen=True, slots=True)
class Postponed:
    """Return it from `try_`, or for an item of `try_batch`: the Try has to wait, and is run again.

    What the handler changed is committed, and the branch stays untried: a Cancel in the meantime is an
    empty cancel, so the action needs `cancel_always` if it has to undo what was committed. While it
    waits, the Try holds no transaction and no connection. If it waits for more than two seconds, the
    call fails with `reason` and `message`, and the coordinator repeats it.

    Args:
        reason: A stable UPPER_SNAKE word, as in `Rejected`.
        message: A text for people.
        until: Called and awaited on the event loop. The handler is called again when it is done.
    """

    reason: str
    message: str
    until: Callable[[], Awaitable[object]]


class Branch(NamedTuple):
    """One participant's part of a global transaction, as received in one call."""

    gid: str
    branch_id: str
    action: str
    # Milliseconds since the Unix epoch; 0 if the caller gave no expiry.
    expires_at_ms: int = 0
    # The number of earlier deliveries that the calling coordinator knows of.
    attempt: int = 0
    # True if this branch's Try took effect here. False in a Try, and in the
    # Cancel of a `cancel_always` action whose Try never arrived.
    tried: bool = False
    # The result of the Try, from the barrier's row and not from the caller. In a Try: the
    # result that the action's `try_result` hook returned. Empty if there is none.
    try_result: bytes = b""
    try_result_content_type: str = ""
    # SHA-256 of action, payload and content type, compared by the barrier; empty if not known.
    digest: bytes = b""

    @property
    def key(self) -> tuple[str, str]:
        return self.gid, self.branch_id

    @property
    def expires_at(self) -> datetime | None:
        """When the transaction expires, in UTC; None if the caller gave no expiry."""
        return datetime.fromtimestamp(self.expires_at_ms / 1000, UTC) if self.expires_at_ms else None

    def try_result_as(self, kind: type[T]) -> T:
        """Return the result of the Try, decoded as `kind` (see tcc.payload). Raises InvalidPayloadError."""
        return payload.decode(kind, self.try_result, self.try_result_content_type)


class BatchItem(NamedTuple):
    """One item of a batch handler's argument: the branch and its decoded payload."""

    branch: Branch
    request: Any
