"""The values the core works on. All frozen; times are seconds since the Unix epoch by the log's clock."""

from enum import IntEnum
from math import inf
from typing import Self

from msgspec import Struct

NOW = 0.0
NEVER = inf
# What an operator holds is due at the end of the year 9999, the last that databases agree on.
HELD = 253_402_300_799.0
# The longest content type, of a payload and of a result.
CONTENT_TYPE_BYTES_MAX = 255


class TransactionState(IntEnum):
    """How a transaction stands. Numbers are those of the contract and of the log."""

    decided: bool
    ended: bool

    def __new__(cls, number: int, decided: bool = False, ended: bool = False) -> Self:  # noqa: FBT001, FBT002
        state = int.__new__(cls, number)
        state._value_ = number
        # Plain attributes: they are asked for at every step, and properties cost more than a step may.
        state.decided, state.ended = decided, ended
        return state

    TRYING = (1, False, False)
    CONFIRMING = (2, True, False)
    CANCELLING = (3, True, False)
    CONFIRMED = (4, True, True)
    CANCELLED = (5, True, True)


class CancelReason(IntEnum):
    """Why a transaction was cancelled. NONE unless it was."""

    NONE = 0
    REJECTED = 1
    EXPIRED = 2
    REQUESTED = 3
    TRY_FAILED = 4


class Operation(IntEnum):
    """The calls of a branch, numbered as in the contract. The core imports no SDK, so it has its own."""

    TRY = 1
    CONFIRM = 2
    CANCEL = 3
    # Whether the Try has taken effect; if it has not, it never will.
    CHECK = 4


class BranchKind(IntEnum):
    """What is called on a branch, and when (`core.kinds`). Numbers are those of contract and log."""

    TCC = 1
    SAGA = 2
    MESSAGE = 3


# The decision that a state holds. TRYING has none.
DECISIONS = {
    TransactionState.CONFIRMING: Operation.CONFIRM,
    TransactionState.CONFIRMED: Operation.CONFIRM,
    TransactionState.CANCELLING: Operation.CANCEL,
    TransactionState.CANCELLED: Operation.CANCEL,
}


class TryState(IntEnum):
    """What is known of a branch's Try. UNKNOWN until it answered, and again after an adoption.

    A branch that needs no Try has SUCCEEDED from the start: nothing waits for it.
    """

    UNKNOWN = 0
    SUCCEEDED = 1
    REJECTED = 2
    FAILED = 3


class Heuristic(IntEnum):
    """The outcome of a branch that an operator ended. NONE: its participant has ended it, or will."""

    NONE = 0
    CONFIRMED = 1
    CANCELLED = 2


class OutcomeCode(IntEnum):
    """How a call ended. FAILED: it may or may not have taken effect."""

    SUCCEEDED = 1
    REJECTED = 2
    FAILED = 3


class TraceContext(Struct, frozen=True, kw_only=True, gc=False):
    """A place in a trace, as the two headers of W3C Trace Context say it. Decides nothing."""

    # 00-TRACE_ID-SPAN_ID-FLAGS, all of it checked.
    traceparent: str
    tracestate: str = ""

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether spans are to be made."""
        return bool(int(self.traceparent[53:55], 16) & 1)


class CallResult(Struct, frozen=True, kw_only=True, gc=False):
    """The result of one call, from the participant or from the connection to it."""

    code: OutcomeCode
    reason: str = ""
    message: str = ""
    result: bytes = b""
    result_content_type: str = ""
    # FAILED only: repeating the call cannot help.
    permanent: bool = False
    # FAILED only: the call was not sent, because the participant's breaker is open
    # or its queue is full. Such a failure counts no attempt.
    not_sent: bool = False
    # FAILED only: no connection, or no answer in time.
    unreachable: bool = False
    # FAILED only: this coordinator is not configured with the participant. Another one may be.
    unknown_participant: bool = False
    # FAILED only: not before this many seconds.
    retry_after_s: float = 0.0
    # FAILED only: the call's span, where one was made.
    span_id: str = ""


# Of the contract: the payload is no longer known.
UNKNOWN_CONTENT_TYPE = "application/x-tcc-unknown"


class BranchSpec(Struct, frozen=True, kw_only=True, gc=False):
    """One participant's share of a transaction, as the initiator described it."""

    branch_id: str
    participant: str
    action: str
    payload: bytes = b""
    content_type: str = ""
    stage: int = 0
    # The initiator calls the Try itself and vouches for it by asking for CONFIRM.
    tried_by_initiator: bool = False
    # Its Cancel waits until every later stage is cancelled.
    cancel_in_stage_order: bool = False
    kind: BranchKind = BranchKind.TCC
    # MESSAGE only: its Confirm is not called before.
    not_before: float = NOW
    # SAGA only: the initiator's local change, which decides if the initiator does not.
    check_back: bool = False


class BranchCall(Struct, frozen=True, kw_only=True, gc=False):
    """One operation on one branch, from the core's effect to the participant."""

    gid: str
    index: int
    operation: Operation
    spec: BranchSpec
    expires_at: float
    attempt: int = 0
    result: bytes = b""
    result_content_type: str = ""
    trace: TraceContext | None = None
    # The call's own span, where one is made.
    span: TraceContext | None = None
    # The span of the previous attempt, if one was made.
    failed_span_id: str = ""


class Note(Struct, frozen=True, kw_only=True, gc=False):
    """A failed call, for operators; the same again right after it is counted, not repeated."""

    at: float
    operation: Operation
    text: str
    count: int = 1
    last_at: float = 0.0
    # It made the transaction stuck.
    stuck: bool = False
    # It stands for so many that were left out, to keep a branch's notes few.
    omitted: bool = False


class Branch(Struct, frozen=True, kw_only=True, gc=False):
    """A branch with its progress."""

    spec: BranchSpec
    tried: TryState = TryState.UNKNOWN
    result: bytes = b""
    result_content_type: str = ""
    # The decision is carried out here.
    done: bool = False
    # Calls of the present phase that failed.
    attempts: int = 0
    last_error: str = ""
    # When the next attempt is due; NOW until the first one failed.
    next_attempt_at: float = NOW
    # An operator ended it: done, without an answer of its participant.
    heuristic: Heuristic = Heuristic.NONE
    heuristic_reason: str = ""
    # The failures so far. Decides nothing.
    notes: tuple[Note, ...] = ()
    # The span of the last call that failed, for the next one to point to. Decides nothing.
    failed_span_id: str = ""
    # The call that is in flight, if any. Only in memory.
    calling: Operation | None = None


class Transaction(Struct, frozen=True, kw_only=True, gc=False):
    """A transaction as its owner knows it, and how much of that is durable."""

    gid: str
    branches: tuple[Branch, ...]
    expires_at: float
    # The initiator drives it step by step; branches may still join.
    interactive: bool = False
    initiator: str = ""
    # The client that began it, to which it belongs; empty if callers were not authenticated.
    tenant: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    # Identifies the content of the request that began it.
    fingerprint: bytes = b""
    # The initiator's place in the trace that it belongs to; None: in none.
    trace: TraceContext | None = None
    state: TransactionState = TransactionState.TRYING
    # In TRYING: CANCEL was asked for, and the check-back branch has not answered yet.
    cancel_reason: CancelReason = CancelReason.NONE
    cancel_branch_id: str = ""
    cancel_detail: str = ""
    # The participant's message beside its reason. Untrusted; decides nothing.
    cancel_message: str = ""
    stuck: bool = False
    # Set while it waits in the log, without an owner, for its next attempt; HELD
    # while an operator holds it.
    next_attempt_at: float = 0.0
    waiting_on: str = ""

    # The rest is only in memory.
    confirm_requested: bool = False
    # A participant that is not configured here and has a branch to try: it is to be parked for another owner.
    unknown_participant: str = ""
    # When time alone changes something: the expiry, or a Try to repeat.
    wake_at: float = NEVER
    # The version of the log's row; 0 before the first write.
    version: int = 0
    # What that row holds.
    saved_state: TransactionState | None = None
    saved_branches: int = 0
    # A write is in flight; it holds this much.
    saving: bool = False
    saving_branches: int = 0
    saving_state: TransactionState | None = None

    @property
    def held(self) -> bool:
        """Whether an operator has stopped all work on it."""
        return self.next_attempt_at >= HELD

    @property
    def heuristic(self) -> bool:
        """Whether an operator has ended a branch."""
        return any(branch.heuristic for branch in self.branches)

    @property
    def mixed(self) -> bool:
        """Whether an operator has ended a branch against the decision."""
        is_confirm = DECISIONS.get(self.state) is Operation.CONFIRM
        other = Heuristic.CANCELLED if is_confirm else Heuristic.CONFIRMED
        return any(branch.heuristic is other for branch in self.branches)


class RetryPolicy(Struct, frozen=True, kw_only=True, gc=False):
    """Capped exponential backoff with full jitter."""

    delay_first_s: float = 0.1
    delay_max_s: float = 30.0
    attempts_before_stuck: int = 10
