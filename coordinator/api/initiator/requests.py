"""Requests of initiators, validated and converted to the core's values."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import MsgspecError, Struct, msgpack
from msgspec.structs import replace

from coordinator.core.errors import InvalidRequest, TooManyBranches, TransactionTooLarge
from coordinator.core.kinds import new_branch
from coordinator.core.model import (
    CONTENT_TYPE_BYTES_MAX,
    HELD,
    NOW,
    BranchKind,
    BranchSpec,
    TraceContext,
    Transaction,
    TransactionState,
)
from coordinator.engine.waiting import Milestone
from coordinator.ports.log import ListFilter, ListPosition
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

ID_BYTES_MAX = 128
# What a branch has besides its payload, and a transaction besides its branches and labels: at most.
BRANCH_NAMES_BYTES = 3 * ID_BYTES_MAX + CONTENT_TYPE_BYTES_MAX + 64
_TRANSACTION_NAMES_BYTES = 4_096
# The wire format of a label.
_LABEL_OVERHEAD_BYTES = 16
REASON_CHARACTERS_MAX = 1_000
# If an expiry follows from the call's deadline, it precedes the deadline by this share of the
# caller's time, and by at most this much.
EXPIRY_MARGIN = 0.2
EXPIRY_MARGIN_MAX_S = 0.5
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000
# Our longest token has 212 bytes, and none is nested.
PAGE_TOKEN_CHARACTERS_MAX = 400
# The end of the year 9999, the last that Python's datetime can represent.
TIME_MAX_S = 253_402_300_799
# Of google.protobuf.Duration: 10,000 years.
DURATION_MAX_S = 315_576_000_000
NANOS_MAX = 999_999_999

_MILESTONES: dict[int, Milestone] = {
    pb.WAIT_FOR_UNSPECIFIED: Milestone.DECIDED,
    pb.WAIT_FOR_DECISION: Milestone.DECIDED,
    pb.WAIT_FOR_COMPLETION: Milestone.COMPLETED,
    pb.WAIT_FOR_ACCEPTED: Milestone.ACCEPTED,
}
_STATES = {state.value: state for state in TransactionState}
# Each branch is compared with it, and the members of an enumeration are slow to look up.
_TCC = BranchKind.TCC
_KINDS = {common.BRANCH_KIND_UNSPECIFIED: BranchKind.TCC} | {kind.value: kind for kind in BranchKind}


class RequestLimits(Struct, frozen=True, kw_only=True):
    """The bounds of one request."""

    branches_max: int = 64
    payload_bytes_max: int = 256 * 1024
    transaction_bytes_max: int = 1024 * 1024
    stage_max: int = 15
    labels_max: int = 16
    label_bytes_max: int = 256
    batch_max: int = 1_024
    # The time limit of a call without a deadline.
    call_max_s: float = 300.0
    expiry_default_s: float = 30.0
    expiry_min_s: float = 0.05
    expiry_max_s: float = 3_600.0

    @property
    def transaction_request_bytes_max(self) -> int:
        """The size of the largest transaction, as a message."""
        labels = self.labels_max * (self.label_bytes_max + _LABEL_OVERHEAD_BYTES)
        branches = self.branches_max * BRANCH_NAMES_BYTES
        return self.transaction_bytes_max + branches + labels + _TRANSACTION_NAMES_BYTES

    @property
    def branch_request_bytes_max(self) -> int:
        """The size of the largest branch, as a message."""
        return self.payload_bytes_max + BRANCH_NAMES_BYTES + _TRANSACTION_NAMES_BYTES

    @property
    def branches_request_bytes_max(self) -> int:
        """The size of the largest request that adds branches, as a message."""
        branches = self.branches_max * BRANCH_NAMES_BYTES
        return self.transaction_bytes_max + branches + _TRANSACTION_NAMES_BYTES


def milestone_of(wait_for: int) -> Milestone:
    """Return the milestone that a request waits for.

    Raises:
        InvalidRequest
    """
    milestone = _MILESTONES.get(wait_for)
    if milestone is None:
        raise InvalidRequest("INVALID_WAIT_FOR", f"unknown wait_for {wait_for}")
    return milestone


def state_of(number: int) -> TransactionState:
    """Return the state that a filter names.

    Raises:
        InvalidRequest
    """
    state = _STATES.get(number)
    if state is None:
        raise InvalidRequest("INVALID_STATE", f"unknown state {number}")
    return state


def checked_gid(gid: str) -> str:
    """Return the gid if it is valid.

    Raises:
        InvalidRequest
    """
    return _checked_id("GID", "gid", gid)


def transaction_request(raw: bytes, limits: RequestLimits) -> pb.ExecuteTransactionRequest:
    """Return the request of one transaction, decoded.

    Raises:
        InvalidRequest, TransactionTooLarge
    """
    if len(raw) > limits.transaction_request_bytes_max:
        raise TransactionTooLarge(
            f"a transaction may have at most {limits.transaction_request_bytes_max} bytes as a message"
        )
    try:
        return pb.ExecuteTransactionRequest.FromString(raw)
    except DecodeError:
        raise InvalidRequest("INVALID_MESSAGE", "the request is not a transaction") from None


def new_transaction(
    request: pb.ExecuteTransactionRequest,
    *,
    gid: str,
    now: float,
    time_left_s: float | None,
    limits: RequestLimits,
    cancel_in_stage_order: frozenset[str],
    trace: TraceContext | None = None,
    tenant: str = "",
) -> Transaction:
    """Return a whole transaction as requested by an initiator.

    `gid` is used if the request has none. `time_left_s` is what the caller's deadline
    leaves; it bounds an expiry that the request does not set. `cancel_in_stage_order`
    names the participants that require that order. `trace` is the result of
    `trace_contexts`.

    Raises:
        InvalidRequest, TooManyBranches, TransactionTooLarge
    """
    if not request.branches:
        raise InvalidRequest("NO_BRANCHES", "a transaction requires at least one branch")
    if len(request.branches) > limits.branches_max:
        raise TooManyBranches(f"at most {limits.branches_max} branches are allowed")
    specs = [branch_spec(branch, limits, cancel_in_stage_order) for branch in request.branches]
    check_distinct(specs)
    if sum(len(spec.payload) for spec in specs) > limits.transaction_bytes_max:
        raise TransactionTooLarge(
            f"the payloads of a transaction may have at most {limits.transaction_bytes_max} bytes"
        )
    return _transaction(
        request,
        specs,
        gid=gid,
        now=now,
        time_left_s=time_left_s,
        limits=limits,
        interactive=False,
        trace=trace,
        tenant=tenant,
    )


def new_interactive(
    request: pb.BeginTransactionRequest,
    *,
    gid: str,
    now: float,
    limits: RequestLimits,
    trace: TraceContext | None = None,
    tenant: str = "",
) -> Transaction:
    """Return an interactive transaction that has no branches yet.

    Raises:
        InvalidRequest
    """
    return _transaction(
        request,
        [],
        gid=gid,
        now=now,
        time_left_s=None,
        limits=limits,
        interactive=True,
        trace=trace,
        tenant=tenant,
    )


def check_distinct(specs: Sequence[BranchSpec]) -> None:
    """Check that no two branches have one id.

    Raises:
        InvalidRequest
    """
    if len({spec.branch_id for spec in specs}) < len(specs):
        raise InvalidRequest("DUPLICATE_BRANCH_ID", "branch ids must differ within a transaction")


def check_back_spec(
    request: pb.RegisterBranchRequest, limits: RequestLimits, cancel_in_stage_order: frozenset[str]
) -> BranchSpec:
    """Return the branch of an initiator's local change, by which its transaction is decided.

    Raises:
        InvalidRequest
    """
    spec = branch_spec(
        request.branch, limits, cancel_in_stage_order, interactive=True, tried_by_initiator=True
    )
    if request.branch.kind not in (common.BRANCH_KIND_UNSPECIFIED, common.BRANCH_KIND_SAGA):
        raise InvalidRequest("INVALID_KIND", "the kind of a branch with check_back is SAGA")
    return replace(spec, kind=BranchKind.SAGA, check_back=True)


def message_specs(
    messages: Sequence[common.BranchSpec], limits: RequestLimits, cancel_in_stage_order: frozenset[str]
) -> tuple[BranchSpec, ...]:
    """Return the messages that join an interactive transaction.

    Raises:
        InvalidRequest, TooManyBranches
    """
    if len(messages) > limits.branches_max:
        raise TooManyBranches(f"at most {limits.branches_max} branches are allowed")
    specs = tuple(branch_spec(message, limits, cancel_in_stage_order) for message in messages)
    if any(spec.kind is not BranchKind.MESSAGE for spec in specs):
        raise InvalidRequest("INVALID_KIND", "each of `messages` must be of kind MESSAGE")
    check_distinct(specs)
    return specs


def branch_spec(
    branch: common.BranchSpec,
    limits: RequestLimits,
    cancel_in_stage_order: frozenset[str],
    *,
    interactive: bool = False,
    tried_by_initiator: bool = False,
) -> BranchSpec:
    """Return one branch as described by an initiator.

    Raises:
        InvalidRequest
    """
    payload = branch.payload
    if len(payload) > limits.payload_bytes_max:
        raise InvalidRequest(
            "PAYLOAD_TOO_LARGE", f"a payload may have at most {limits.payload_bytes_max} bytes"
        )
    stage = branch.stage
    if stage > (0 if interactive else limits.stage_max):
        raise InvalidRequest(
            "INVALID_STAGE",
            "stages require a whole transaction; interactive steps run in the order of their requests"
            if interactive
            else f"a stage must be from 0 to {limits.stage_max}",
        )
    branch_id, participant, action, content_type = _checked_names(
        branch.branch_id, branch.participant, branch.action, branch.content_type
    )
    # Check this first: most branches are TCC and say nothing of it.
    special = branch.kind or branch.HasField("not_before")
    kind, not_before = _kind(branch) if special else (_TCC, NOW)
    if interactive and kind is BranchKind.MESSAGE:
        raise InvalidRequest(
            "INVALID_KIND", "a message comes with ConfirmTransaction, or with a branch with check_back"
        )
    return BranchSpec(
        branch_id=branch_id,
        participant=participant,
        action=action,
        payload=payload,
        content_type=content_type,
        stage=stage,
        tried_by_initiator=tried_by_initiator,
        cancel_in_stage_order=participant in cancel_in_stage_order,
        kind=kind,
        not_before=not_before,
    )


def _kind(branch: common.BranchSpec) -> tuple[BranchKind, float]:
    """Return the kind of a branch, and the time before which a MESSAGE is not delivered."""
    kind = _KINDS.get(branch.kind)
    if kind is None:
        raise InvalidRequest("INVALID_KIND", f"unknown kind {branch.kind}")
    if kind is BranchKind.MESSAGE and branch.stage:
        raise InvalidRequest("INVALID_STAGE", "the stage of a message is 0: it follows the decision")
    not_before = _moment_s(branch, "not_before")
    if not_before is None:
        return kind, NOW
    if kind is not BranchKind.MESSAGE:
        raise InvalidRequest("INVALID_NOT_BEFORE", "only a message has a time before which it is not called")
    if not_before >= HELD:
        raise InvalidRequest("INVALID_NOT_BEFORE", "not_before must be before the end of the year 9999")
    return kind, not_before


def list_filter(
    request: pb.ListTransactionsRequest, limits: RequestLimits, tenant: str | None = None
) -> ListFilter:
    """Return the filter of a list request. `tenant`: only its transactions; None: those of all.

    Raises:
        InvalidRequest
    """
    if len(request.states) > len(TransactionState):
        raise InvalidRequest("TOO_MANY_STATES", f"at most {len(TransactionState)} states can be named")
    return ListFilter(
        states=tuple(sorted({state_of(number) for number in request.states})),
        participant=_checked_text("PARTICIPANT", "participant", request.participant),
        labels=_checked_labels(request.labels, limits),
        initiator=_checked_text("INITIATOR", "initiator", request.initiator),
        stuck=request.stuck or None,
        created_after=_moment_s(request, "created_after"),
        created_before=_moment_s(request, "created_before"),
        tenants=None if tenant is None else (tenant,),
    )


def page_size(request: pb.ListTransactionsRequest) -> int:
    """Return the page size of a list request.

    Raises:
        InvalidRequest
    """
    if request.page_size > PAGE_SIZE_MAX:
        raise InvalidRequest("INVALID_PAGE_SIZE", f"a page has at most {PAGE_SIZE_MAX} items")
    return request.page_size or PAGE_SIZE_DEFAULT


def page_token(position: ListPosition) -> str:
    """Return the token that names where the next page starts."""
    return base64.urlsafe_b64encode(msgpack.encode(position)).decode()


def list_position(token: str) -> ListPosition | None:
    """Return where a page starts; None: at the newest. The token is not trusted.

    Raises:
        InvalidRequest
    """
    if not token:
        return None
    if len(token) > PAGE_TOKEN_CHARACTERS_MAX:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is too long")
    try:
        position = msgpack.decode(base64.urlsafe_b64decode(token), type=ListPosition)
    except (MsgspecError, ValueError) as error:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is invalid") from error
    if not 0 <= position.created_at_us <= TIME_MAX_S * 1_000_000:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token contains an invalid time")
    _checked_id("PAGE_TOKEN", "the gid in the page token", position.gid)
    return position


@lru_cache(maxsize=4_096)
def _checked_names(
    branch_id: str, participant: str, action: str, content_type: str
) -> tuple[str, str, str, str]:
    """Return the names, interned: live transactions share them.

    The same few names recur. A raise is not cached.

    Raises:
        InvalidRequest
    """
    return (
        _checked_id("BRANCH_ID", "branch_id", branch_id),
        _checked_id("PARTICIPANT", "participant", participant),
        _checked_id("ACTION", "action", action),
        checked_content_type(content_type),
    )


def _moment_s(request: pb.ListTransactionsRequest | common.BranchSpec, field: str) -> float | None:
    if not request.HasField(field):
        return None
    moment: Timestamp = getattr(request, field)
    moment_s = moment.seconds + moment.nanos / 1e9
    if not (0 <= moment_s <= TIME_MAX_S and 0 <= moment.nanos <= NANOS_MAX):
        raise InvalidRequest("INVALID_TIME", f"{field} must be in the years 1970 to 9999")
    return moment_s


def _transaction(
    request: pb.ExecuteTransactionRequest | pb.BeginTransactionRequest,
    specs: list[BranchSpec],
    *,
    gid: str,
    now: float,
    time_left_s: float | None,
    limits: RequestLimits,
    interactive: bool,
    trace: TraceContext | None,
    tenant: str,
) -> Transaction:
    labels = _checked_labels(request.labels, limits)
    return Transaction(
        gid=checked_gid(request.gid or gid),
        branches=tuple([new_branch(spec) for spec in specs]),
        # In whole milliseconds: initiator, participants and log have the same moment.
        expires_at=round((now + _expiry_s(request, time_left_s, limits)) * 1000) / 1000,
        interactive=interactive,
        initiator=_checked_text("INITIATOR", "initiator", request.initiator),
        tenant=tenant,
        labels=labels,
        fingerprint=_fingerprint(specs, labels, interactive=interactive, tenant=tenant),
        trace=trace,
    )


def _expiry_s(
    request: pb.ExecuteTransactionRequest | pb.BeginTransactionRequest,
    time_left_s: float | None,
    limits: RequestLimits,
) -> float:
    if not request.HasField("expiry"):
        default_s = limits.expiry_default_s
        if time_left_s is None:
            return default_s
        # The caller must still be waiting when the transaction is cancelled, and get the reason.
        before_deadline_s = time_left_s - min(EXPIRY_MARGIN_MAX_S, time_left_s * EXPIRY_MARGIN)
        return max(limits.expiry_min_s, min(default_s, before_deadline_s))
    expiry_s = duration_s("expiry", request.expiry)
    if not limits.expiry_min_s <= expiry_s <= limits.expiry_max_s:
        raise InvalidRequest(
            "INVALID_EXPIRY",
            f"expiry must be {limits.expiry_min_s:g} to {limits.expiry_max_s:g} seconds, not {expiry_s:g}",
        )
    return expiry_s


def duration_s(field: str, given: Duration) -> float:
    """Return the seconds of a duration.

    Raises:
        InvalidRequest: it is not one that protobuf allows, so that its sender meant something else.
    """
    seconds: int = given.seconds
    nanos: int = given.nanos
    if abs(seconds) > DURATION_MAX_S or abs(nanos) > NANOS_MAX or seconds * nanos < 0:
        raise InvalidRequest(
            f"INVALID_{field.upper()}",
            f"{field} is not a valid google.protobuf.Duration: nanos must be within {NANOS_MAX} and have the "
            f"sign of seconds, which must be within {DURATION_MAX_S}",
        )
    return seconds + nanos / 1e9


def _fingerprint(
    specs: Iterable[BranchSpec], labels: tuple[tuple[str, str], ...], *, interactive: bool, tenant: str
) -> bytes:
    """Return a fingerprint of a request's content, without its expiry and milestone, which may differ.

    With the tenant, so that no client can join the transaction of another by repeating its request.
    """
    content = [
        (s.branch_id, s.participant, s.action, s.payload, s.content_type, s.stage)
        if s.kind is _TCC
        else (s.branch_id, s.participant, s.action, s.payload, s.content_type, s.stage, s.kind, s.not_before)
        for s in specs
    ]
    owner = (tenant,) if tenant else ()
    return blake2b(msgpack.encode((content, labels, interactive, *owner)), digest_size=16).digest()


def _checked_labels(labels: Mapping[str, str], limits: RequestLimits) -> tuple[tuple[str, str], ...]:
    if not labels:
        return ()
    if len(labels) > limits.labels_max:
        raise InvalidRequest("TOO_MANY_LABELS", f"at most {limits.labels_max} labels are allowed")
    for key, value in labels.items():
        if not key or len((key + value).encode()) > limits.label_bytes_max:
            raise InvalidRequest(
                "INVALID_LABEL",
                f"a label needs a key, and at most {limits.label_bytes_max} bytes for key and value",
            )
        _check_printable("LABEL", "label", key + value)
    return tuple(sorted(labels.items()))


def _checked_id(reason: str, field: str, value: str) -> str:
    if not value:
        raise InvalidRequest(f"INVALID_{reason}", f"{field} must not be empty")
    return _checked_text(reason, field, value)


def _checked_text(reason: str, field: str, value: str, *, bytes_max: int = ID_BYTES_MAX) -> str:
    if len(value) > bytes_max or len(value.encode()) > bytes_max:
        raise InvalidRequest(f"INVALID_{reason}", f"{field} may have at most {bytes_max} bytes of UTF-8")
    _check_printable(reason, field, value)
    return value


def checked_content_type(value: str) -> str:
    """Return a content type, if it is valid.

    Raises:
        InvalidRequest
    """
    return _checked_text("CONTENT_TYPE", "content_type", value, bytes_max=CONTENT_TYPE_BYTES_MAX)


def _check_printable(reason: str, field: str, value: str) -> None:
    if not value.isprintable():
        raise InvalidRequest(f"INVALID_{reason}", f"{field} contains a character that is not printable")
