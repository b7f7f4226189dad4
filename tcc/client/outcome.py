"""The values that the client returns: outcomes, results of Trys, and transactions from the log.

The enums are numbered as in the contract.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Literal, TypeAlias, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from tcc import payload
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

T = TypeVar("T")

#: What a call waits for: the durable decision, its completion at every branch, or only the
#: durable transaction, which the coordinator then drives without the caller.
WaitFor: TypeAlias = Literal["decision", "completion", "accepted"]

_WAIT_FOR: dict[str, pb.WaitFor] = {
    "decision": pb.WAIT_FOR_DECISION,
    "completion": pb.WAIT_FOR_COMPLETION,
    "accepted": pb.WAIT_FOR_ACCEPTED,
}


class TransactionState(IntEnum):
    """The state of a transaction. UNKNOWN: its row in the log is damaged, or of a newer version."""

    UNKNOWN = 0
    TRYING = 1
    CONFIRMING = 2
    CANCELLING = 3
    CONFIRMED = 4
    CANCELLED = 5


class CancelReason(IntEnum):
    """Why a transaction was cancelled; NONE if it was not."""

    NONE = 0
    REJECTED = 1
    EXPIRED = 2
    REQUESTED = 3
    TRY_FAILED = 4


class BranchState(IntEnum):
    """The state of a branch. UNKNOWN: as of a transaction."""

    UNKNOWN = 0
    TRYING = 1
    TRIED = 2
    REJECTED = 3
    FAILED = 4
    CONFIRMED = 5
    CANCELLED = 6
    # A message before the decision.
    PENDING = 7


class BranchKind(IntEnum):
    """What is called on a branch. UNKNOWN: as of a transaction."""

    UNKNOWN = 0
    TCC = 1
    SAGA = 2
    MESSAGE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TryResult:
    """The result of a branch's Try. Bytes and content type are empty if the Try returned None."""

    branch_id: str
    data: bytes = b""
    content_type: str = ""

    def json(self) -> Any:
        """Return the result decoded as JSON. Raises InvalidPayloadError, a ValueError, if it is not JSON."""
        return payload.decode_json(self.as_(bytes))

    def as_(self, kind: type[T]) -> T:
        """Return the result decoded as `kind` (see tcc.payload). Raises InvalidPayloadError."""
        return payload.decode(kind, self.data, self.content_type)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The state of a transaction and the results of its Trys.

    `cancel_detail` is the stable reason that programs compare. `cancel_message` is the
    participant's message, for people. `results` holds the results of the Trys by branch id; a
    Try that returned None has no entry.
    """

    gid: str
    state: TransactionState
    cancel_reason: CancelReason = CancelReason.NONE
    cancel_branch_id: str = ""
    cancel_detail: str = ""
    cancel_message: str = ""
    results: dict[str, TryResult] = field(default_factory=dict)

    @property
    def confirmed(self) -> bool:
        """True if the decision is CONFIRM. Some Confirms may not be done yet."""
        return self.state in _CONFIRM_DECIDED

    @property
    def cancelled(self) -> bool:
        """True if the decision is CANCEL. Some Cancels may not be done yet."""
        return self.state in _CANCEL_DECIDED

    @property
    def completed(self) -> bool:
        """True if every branch has carried out the decision."""
        return self.state >= TransactionState.CONFIRMED


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchRecord:
    """A branch as the log holds it. `attempts` is the number of failed phase-two calls so far."""

    branch_id: str
    participant: str
    action: str
    payload: bytes
    content_type: str
    stage: int
    state: BranchState
    tried_by_initiator: bool
    result: TryResult
    attempts: int
    last_error: str
    next_attempt_at: datetime | None
    kind: BranchKind = BranchKind.TCC
    # A message is not delivered before this time.
    not_before: datetime | None = None
    # The initiator's local branch, which decides if the initiator does not.
    check_back: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionRecord:
    """A transaction as the log holds it. Times are in UTC, and None if the event has not happened."""

    gid: str
    state: TransactionState
    initiator: str
    labels: dict[str, str]
    created_at: datetime | None
    expires_at: datetime | None
    decided_at: datetime | None
    ended_at: datetime | None
    cancel_reason: CancelReason
    cancel_branch_id: str
    cancel_detail: str
    cancel_message: str = ""
    stuck: bool
    owner: str
    version: int
    branches: tuple[BranchRecord, ...]


_CONFIRM_DECIDED = frozenset({TransactionState.CONFIRMING, TransactionState.CONFIRMED})
_CANCEL_DECIDED = frozenset({TransactionState.CANCELLING, TransactionState.CANCELLED})

# A look-up is several times cheaper than a call of the enum, and `execute` does one per transaction.
_STATES = {state.value: state for state in TransactionState}
_BRANCH_STATES = {state.value: state for state in BranchState}
# Unspecified is TCC.
_BRANCH_KINDS = {0: BranchKind.TCC} | {kind.value: kind for kind in BranchKind if kind}
_CANCEL_REASONS = {reason.value: reason for reason in CancelReason}


def wait_for_number(wait_for: WaitFor) -> pb.WaitFor:
    """Return the contract's number of a word. Raises ValueError for an unknown word."""
    if not isinstance(wait_for, str) or wait_for not in _WAIT_FOR:
        raise ValueError(f"wait_for is one of {', '.join(map(repr, _WAIT_FOR))}, not {wait_for!a}")
    return _WAIT_FOR[wait_for]


def try_result(
    gid: str, branch_id: str, data: bytes, content_type: str, codec: payload.PayloadCodec | None
) -> TryResult:
    """Return the result of a Try, opened if the codec can."""
    place = payload.result_place(gid, branch_id)
    opened = payload.opened_or_sealed(codec, payload.Encoded(data, content_type), place)
    return TryResult(branch_id=branch_id, data=opened.data, content_type=opened.content_type)


def outcome_of(message: pb.TransactionOutcome, codec: payload.PayloadCodec | None = None) -> Outcome:
    """Return the contract's outcome as a value."""
    return Outcome(
        gid=message.gid,
        state=_STATES.get(message.state, TransactionState.UNKNOWN),
        cancel_reason=_CANCEL_REASONS.get(message.cancel_reason, CancelReason.NONE),
        cancel_branch_id=message.cancel_branch_id,
        cancel_detail=message.cancel_detail,
        cancel_message=message.cancel_message,
        results={
            item.branch_id: try_result(message.gid, item.branch_id, item.result, item.content_type, codec)
            for item in message.results
        },
    )


def record_of(message: common.Transaction, codec: payload.PayloadCodec | None = None) -> TransactionRecord:
    """Return the contract's transaction as a value."""
    return TransactionRecord(
        gid=message.gid,
        state=_STATES.get(message.state, TransactionState.UNKNOWN),
        initiator=message.initiator,
        labels=dict(message.labels),
        created_at=_moment(message, "created_at"),
        expires_at=_moment(message, "expires_at"),
        decided_at=_moment(message, "decided_at"),
        ended_at=_moment(message, "ended_at"),
        cancel_reason=_CANCEL_REASONS.get(message.cancel_reason, CancelReason.NONE),
        cancel_branch_id=message.cancel_branch_id,
        cancel_detail=message.cancel_detail,
        cancel_message=message.cancel_message,
        stuck=message.stuck,
        owner=message.owner,
        version=message.version,
        branches=tuple([_branch_record_of(message.gid, branch, codec) for branch in message.branches]),
    )


def _branch_record_of(gid: str, message: common.Branch, codec: payload.PayloadCodec | None) -> BranchRecord:
    spec = message.spec
    place = payload.payload_place(gid, spec.branch_id, spec.participant, spec.action)
    opened = payload.opened_or_sealed(codec, payload.Encoded(spec.payload, spec.content_type), place)
    return BranchRecord(
        branch_id=spec.branch_id,
        participant=spec.participant,
        action=spec.action,
        payload=opened.data,
        content_type=opened.content_type,
        stage=spec.stage,
        state=_BRANCH_STATES.get(message.state, BranchState.UNKNOWN),
        tried_by_initiator=message.tried_by_initiator,
        result=try_result(gid, spec.branch_id, message.result, message.result_content_type, codec),
        attempts=message.attempts,
        last_error=message.last_error,
        next_attempt_at=_moment(message, "next_attempt_at"),
        kind=_BRANCH_KINDS.get(spec.kind, BranchKind.UNKNOWN),
        not_before=_moment(spec, "not_before"),
        check_back=message.check_back,
    )


def _moment(message: common.Transaction | common.Branch | common.BranchSpec, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    moment: Timestamp = getattr(message, name)
    return moment.ToDatetime(UTC)
