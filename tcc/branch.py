"""What a handler sees of the branch it is called for, and how it says no."""

from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from tcc import payload

T = TypeVar("T")


class Rejected(Exception):  # noqa: N818 - a business no is an answer, not an error
    """A business no, raised by `try_` or returned for an item by `try_batch`.

    The local transaction is rolled back, nothing is reserved, and the whole
    global transaction is cancelled. `reason` is a stable UPPER_SNAKE word that
    programs compare (`SOLD_OUT`); `message` is for people.
    """

    # For a subclass that does not call this class's __init__.
    reason = "REJECTED"
    message = ""

    def __init__(self, reason: str, message: str = "") -> None:
        if isinstance(reason, Enum):
            reason = reason.value if isinstance(reason.value, str) else reason.name
        if not isinstance(reason, str) or not isinstance(message, str):
            raise TypeError(
                'Rejected wants a reason and perhaps a message: Rejected("SOLD_OUT", "only 2 are left")'
            )
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


class Branch(NamedTuple):
    """One participant's share of a global transaction, as one call delivers it."""

    gid: str
    branch_id: str
    action: str
    # Milliseconds since the Unix epoch; 0 when the caller named no expiry.
    expires_at_ms: int = 0
    # 0 for the first delivery that the calling coordinator knows of.
    attempt: int = 0
    # Whether this branch's Try took effect here. False in a Try, and in the
    # Cancel of a `cancel_always` action whose Try was never seen.
    tried: bool = False
    # What Try returned, as the barrier kept it: the authority over what the
    # caller says. In a Try, what the action's `try_result` named for it. Empty
    # where there was nothing to return.
    try_result: bytes = b""
    try_result_content_type: str = ""
    # SHA-256 of action, payload and content type, which the barrier compares; empty where not known.
    digest: bytes = b""

    @property
    def key(self) -> tuple[str, str]:
        return self.gid, self.branch_id

    @property
    def expires_at(self) -> datetime | None:
        """When the transaction expires, in UTC; None when the caller named no expiry."""
        return datetime.fromtimestamp(self.expires_at_ms / 1000, UTC) if self.expires_at_ms else None

    def try_result_as(self, kind: type[T]) -> T:
        """Return what Try returned, decoded as `kind` (see tcc.payload). Raises InvalidPayloadError."""
        return payload.decode(kind, self.try_result, self.try_result_content_type)


class BatchItem(NamedTuple):
    """One item of a batch handler's argument: the branch and its decoded payload."""

    branch: Branch
    request: Any
